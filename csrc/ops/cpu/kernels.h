// The inner loops of the convolutions for each instruction set, and the choice among them.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string_view>
#include <type_traits>

#include <torch/headeronly/util/BFloat16.h>

#include "simd.h"

#ifdef YOLACT_X86
#include <immintrin.h>
#endif

namespace yolact {
namespace {

constexpr int64_t kPanel = 32;  // output channels that are computed together
constexpr float kLargestInteger = 8191.0f;  // of inputs that are rounded to 16 bits; the less, the more room for sums
constexpr int64_t kTaps = 36;   // values of a tile of Winograd's F(4×4, 3×3)

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
};

#ifdef YOLACT_X86
namespace avx512 {
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4")
constexpr int kLanes = 16, kRows = 14;
#include "multiply.inc"

// `transform_input`, rounded to integers of at most kLargestInteger, of which all channels of a value have one scale:
// `scales` of the 36 values lie `scale_plane` apart.
template <class T>
void transform_to_integers(const T* const* pixels, int64_t channels, int64_t plane, int64_t scale_plane, float* scratch,
                           int16_t* out, float* scales) {
  transform_input(pixels, channels, channels, scratch);
  for (int64_t tap = 0; tap < kTaps; ++tap, scratch += channels, out += plane, scales += scale_plane) {
    // As integers, floats without their sign are in the same order, and what is not finite is the largest.
    Signed most{};
    for (int64_t c = 0; c < channels; c += kLanes) {
      const Signed bits = reinterpret_cast<Signed>(load(scratch + c)) & 0x7fffffff;
      most = bits > most ? bits : most;
    }
    float largest = 0.0f;
    int32_t bits = 0;
    for (int lane = 0; lane < kLanes; ++lane) bits = most[lane] > bits ? most[lane] : bits;
    std::memcpy(&largest, &bits, sizeof(bits));
    const bool finite = largest <= std::numeric_limits<float>::max(), some = finite && largest > 1e-30f;
    const float factor = some ? kLargestInteger / largest : 0.0f;
    *scales = finite ? (some ? largest / kLargestInteger : 0.0f) : std::numeric_limits<float>::quiet_NaN();
    constexpr float kWhole = 3 << 22;  // floats of this size have no fraction, and the integer in their lower bits
    for (int64_t c = 0; c < channels; c += kLanes) {
      const Signed whole = reinterpret_cast<Signed>(load(scratch + c) * factor + kWhole);
      *reinterpret_cast<Shorts*>(out + c) = __builtin_convertvector(whole, Shorts);
    }
  }
}

// Integers, as the bits of `sums`, times the scales of their rows and of their channels.
inline void scale_sums(const float* scales, const float* channel_scales, float* sums) {
  for (int n = 0; n < kPanel; n += kLanes) {
    const Lanes scale = load(channel_scales + n);
    for (int m = 0; m < kRows; ++m) {
      const Signed exact = reinterpret_cast<Signed>(load(sums + m * kPanel + n));
      store(__builtin_convertvector(exact, Lanes) * (scale * scales[m]), sums + m * kPanel + n);
    }
  }
}
#pragma GCC pop_options

// As `multiply`, of values of two bytes: panel[k / 2][n] holds the factors of two neighbouring k, and `length` is even.
// The sums of integers are integers. These need nothing of avx512bf16, which may be missing where they are multiplied.
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4,avx512vnni,avx512bf16")
template <class Factor>
void multiply_pairs(const Factor* rows, int64_t pitch, int64_t length, const Factor* panel, float* sums) {
  constexpr int kWidth = kPanel / kLanes;
  Lanes total[kRows][kWidth];
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 8
    for (int n = 0; n < kWidth; ++n) total[m][n] = Lanes{};
  }
  for (int64_t k = 0; k < length; k += 2, panel += 2 * kPanel) {
#pragma GCC unroll 16
    for (int m = 0; m < kRows; ++m) {
      int pair;
      std::memcpy(&pair, rows + m * pitch + k, sizeof(pair));
      const __m512i values = _mm512_set1_epi32(pair);
#pragma GCC unroll 8
      for (int n = 0; n < kWidth; ++n) {
        const __m512i factors = _mm512_loadu_si512(panel + 2 * n * kLanes);
        Lanes& sum = total[m][n];
        if constexpr (std::is_same_v<Factor, int16_t>) {
          sum = reinterpret_cast<Lanes>(_mm512_dpwssd_epi32(reinterpret_cast<__m512i>(sum), values, factors));
        } else {
          sum = reinterpret_cast<Lanes>(_mm512_dpbf16_ps(
              reinterpret_cast<__m512>(sum), reinterpret_cast<__m512bh>(values), reinterpret_cast<__m512bh>(factors)));
        }
      }
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 8
    for (int n = 0; n < kWidth; ++n) store(total[m][n], sums + m * kPanel + n * kLanes);
  }
}
#pragma GCC pop_options
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

// Likewise 16-bit integers.
bool multiplies_integers() {
#ifdef YOLACT_X86
  return kernels() == &avx512::kernels && __builtin_cpu_supports("avx512vnni");
#else
  return false;
#endif
}

}  // namespace
}  // namespace yolact
