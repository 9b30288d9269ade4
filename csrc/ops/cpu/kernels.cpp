#include "kernels.h"

#include <cstdlib>
#include <cstring>
#include <limits>
#include <optional>
#include <string_view>
#include <type_traits>

#include "simd.h"

// These loops may fuse products with the sums they go to. No other device computes the same sums anyway, and torch's
// convolution does not promise it either.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("fp-contract=fast")
#endif

#ifdef YOLACT_X86
#include <immintrin.h>
#endif

namespace yolact {

#ifdef YOLACT_X86
namespace {
namespace avx512 {
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4")
constexpr int kLanes = 16, kRows = 14;
#include "multiply.inc"

void transform_to_integers(const c10::BFloat16* const* pixels, int64_t channels, int64_t plane, int64_t scale_plane,
                           float* scratch, int16_t* out, float* scales) {
  transform_input(pixels, channels, channels, scratch);
  for (int64_t tap = 0; tap < kTaps; ++tap, scratch += channels, out += plane, scales += scale_plane) {
    // The bits of floats without their sign, read as integers, have the order of the floats. What is not finite is the
    // largest.
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
    constexpr float kWhole = 3 << 22;  // floats of this size have no fraction, and the integer is in their lower bits
    for (int64_t c = 0; c < channels; c += kLanes) {
      const Signed whole = reinterpret_cast<Signed>(load(scratch + c) * factor + kWhole);
      *reinterpret_cast<Shorts*>(out + c) = __builtin_convertvector(whole, Shorts);
    }
  }
}

// Turns integer sums, which stand as bits in `sums`, into floats: times the scales of their rows and channels.
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

// The sums of integers are integers, whose bits stand in `sums`. Integers need no instruction of avx512bf16, so they
// are multiplied on processors that lack it.
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

void multiply_integers(const int16_t* rows, int64_t pitch, int64_t length, const int16_t* panel,
                       const float* row_scales, float* sums) {
  multiply_pairs(rows, pitch, length, panel, sums);
  scale_sums(row_scales, reinterpret_cast<const float*>(panel + length * kPanel), sums);
}
}  // namespace avx512

namespace avx2 {
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v3")
constexpr int kLanes = 8, kRows = 3;
#include "multiply.inc"
#pragma GCC pop_options
}  // namespace avx2

std::optional<Kernels> best_kernels() {
  const char* capability = std::getenv("ATEN_CPU_CAPABILITY");
  const std::string_view most = capability ? capability : "";
  if (most == "default" || !__builtin_cpu_supports("x86-64-v3")) return std::nullopt;
  if (most == "avx2" || !__builtin_cpu_supports("x86-64-v4")) return avx2::kKernels;
  Kernels best = avx512::kKernels;
  if (__builtin_cpu_supports("avx512bf16")) {
    std::get<Multiply<c10::BFloat16>>(best.multiply) = avx512::multiply_pairs<c10::BFloat16>;
  }
  if (__builtin_cpu_supports("avx512vnni")) {
    best.transform_to_integers = avx512::transform_to_integers;
    best.multiply_integers = avx512::multiply_integers;
  }
  return best;
}
}  // namespace
#endif

const Kernels* kernels() {
#ifdef YOLACT_X86
  static const std::optional<Kernels> best = best_kernels();
  return best ? &*best : nullptr;
#else
  return nullptr;
#endif
}

}  // namespace yolact
