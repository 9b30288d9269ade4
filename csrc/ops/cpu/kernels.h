// The inner loops of the convolutions for each instruction set, and the choice among them.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include <torch/headeronly/util/BFloat16.h>

#include "simd.h"

#ifdef YOLACT_X86
#include <immintrin.h>
#endif

namespace yolact {
namespace {

constexpr int64_t kPanel = 32;  // output channels that are computed together

// A number x as the byte round(x / scale) + zero.
struct Quantization {
  float scale;
  int64_t zero;
};

// The inner loops for one instruction set: see multiply.inc.
struct Kernels {
  int64_t rows;
  void (*multiply)(const float* rows, int64_t pitch, int64_t length, const float* panel, float* sums);
  void (*transform_float)(const float* const* pixels, int64_t channels, int64_t plane, float* out);
  void (*transform_bfloat16)(const c10::BFloat16* const* pixels, int64_t channels, int64_t plane, float* out);
  void (*transform_output)(const float* products, int64_t plane, float* out);
  void (*finish_float)(const float* sums, int64_t pixels, const float* bias, const float* residual, float slope,
                       int64_t pitch, float* out);
  void (*finish_bfloat16)(const float* sums, int64_t pixels, const float* bias, const c10::BFloat16* residual,
                          float slope, int64_t pitch, c10::BFloat16* out);
  void (*quantize_float)(const float* values, int64_t count, Quantization to, uint8_t* out);
  void (*quantize_bfloat16)(const c10::BFloat16* values, int64_t count, Quantization to, uint8_t* out);
};

#ifdef YOLACT_X86
namespace avx512 {
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4")
constexpr int kLanes = 16, kRows = 14;
#include "multiply.inc"
#pragma GCC pop_options

// As `multiply`, of bfloat16: panel[k / 2][n] holds the factors of two neighbouring k, and `length` is even.
__attribute__((target("arch=x86-64-v4,avx512bf16"))) void multiply_pairs(const c10::BFloat16* rows, int64_t pitch,
                                                                         int64_t length, const c10::BFloat16* panel,
                                                                         float* sums) {
  constexpr int kWidth = kPanel / kLanes;
  __m512 total[kRows][kWidth];
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 8
    for (int n = 0; n < kWidth; ++n) total[m][n] = _mm512_setzero_ps();
  }
  for (int64_t k = 0; k < length; k += 2, panel += 2 * kPanel) {
#pragma GCC unroll 16
    for (int m = 0; m < kRows; ++m) {
      int pair;
      std::memcpy(&pair, rows + m * pitch + k, sizeof(pair));
      const __m512bh values = reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
#pragma GCC unroll 8
      for (int n = 0; n < kWidth; ++n) {
        const __m512bh factors = reinterpret_cast<__m512bh>(_mm512_loadu_si512(panel + 2 * n * kLanes));
        total[m][n] = _mm512_dpbf16_ps(total[m][n], values, factors);
      }
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 8
    for (int n = 0; n < kWidth; ++n) _mm512_storeu_ps(sums + m * kPanel + n * kLanes, total[m][n]);
  }
}

// The same of the bytes that inputs are as `input` says: panel[k / 4][n] holds the factors of four neighbouring k, and
// `length` is a multiple of four. After them the panel has the scale and the sum of each channel's factors.
__attribute__((target("arch=x86-64-v4,avx512vnni"))) void multiply_quads(const uint8_t* rows, int64_t pitch,
                                                                         int64_t length, const int8_t* panel,
                                                                         Quantization input, float* sums) {
  constexpr int kWidth = kPanel / kLanes;
  Signed total[kRows][kWidth];
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 8
    for (int n = 0; n < kWidth; ++n) total[m][n] = Signed{};
  }
  for (int64_t k = 0; k < length; k += 4, panel += 4 * kPanel) {
#pragma GCC unroll 16
    for (int m = 0; m < kRows; ++m) {
      int quad;
      std::memcpy(&quad, rows + m * pitch + k, sizeof(quad));
      const __m512i values = _mm512_set1_epi32(quad);
#pragma GCC unroll 8
      for (int n = 0; n < kWidth; ++n) {
        const __m512i factors = _mm512_loadu_si512(panel + 4 * n * kLanes);
        const __m512i sum = _mm512_dpbusd_epi32(reinterpret_cast<__m512i>(total[m][n]), values, factors);
        total[m][n] = reinterpret_cast<Signed>(sum);
      }
    }
  }
  // As they are at first: more in this loop, and the compiler would keep the totals in memory.
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 8
    for (int n = 0; n < kWidth; ++n) store(reinterpret_cast<Lanes>(total[m][n]), sums + m * kPanel + n * kLanes);
  }
  const float* scales = reinterpret_cast<const float*>(panel);
  for (int n = 0; n < kPanel; n += kLanes) {
    const Lanes scale = load(scales + n) * input.scale;
    const Signed offset = reinterpret_cast<Signed>(load(scales + kPanel + n)) * static_cast<int32_t>(input.zero);
    for (int m = 0; m < kRows; ++m) {
      const Signed exact = reinterpret_cast<Signed>(load(sums + m * kPanel + n)) - offset;
      store(__builtin_convertvector(exact, Lanes) * scale, sums + m * kPanel + n);
    }
  }
}
}  // namespace avx512
namespace avx2 {
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v3")
constexpr int kLanes = 8, kRows = 3;
#include "multiply.inc"
#pragma GCC pop_options
}  // namespace avx2
#endif

// The best for this CPU, of what ATEN_CPU_CAPABILITY allows torch too; null where torch's convolutions are the better ones.
const Kernels* kernels() {
#ifdef YOLACT_X86
  static const Kernels* const best = []() -> const Kernels* {
    const char* capability = std::getenv("ATEN_CPU_CAPABILITY");
    const std::string_view most = capability ? capability : "";
    if (most == "default" || !__builtin_cpu_supports("x86-64-v3")) return nullptr;
    return most == "avx2" || !__builtin_cpu_supports("x86-64-v4") ? &avx2::kernels : &avx512::kernels;
  }();
  return best;
#else
  return nullptr;
#endif
}

// Whether the CPU multiplies bfloat16 by itself.
bool multiplies_pairs() {
#ifdef YOLACT_X86
  return kernels() == &avx512::kernels && __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

// Likewise bytes.
bool multiplies_quads() {
#ifdef YOLACT_X86
  return kernels() == &avx512::kernels && __builtin_cpu_supports("avx512vnni");
#else
  return false;
#endif
}

}  // namespace
}  // namespace yolact
