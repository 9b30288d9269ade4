// The innermost loops of the convolutions. multiply.inc and kernels.cpp define them, once for each instruction set, and
// `kernels` gives those that suit the processor.
#pragma once

#include <torch/headeronly/util/BFloat16.h>

#include <cstdint>
#include <tuple>

namespace yolact {

constexpr int64_t kPanel = 32;  // output channels that are computed together
constexpr int64_t kTaps = 36;  // values of a transformed tile of Winograd's F(4×4, 3×3)

// Inputs that are rounded to 16-bit integers become at most this. A smaller value leaves more room for sums.
constexpr float kLargestInteger = 8191.0f;

// How many factors of this type a kernel multiplies and adds at once. They lie side by side in a panel.
template <class Factor>
constexpr int64_t kTogether = 4 / sizeof(Factor);

// sums[m][n] = Σ rows[m · pitch + k] · panel[k][n] over k < length, for `Kernels::rows` rows and a panel's channels.
// With factors of two bytes the length is even and the panel is [length / 2][kPanel][2].
template <class Factor>
using Multiply = void (*)(const Factor* rows, int64_t pitch, int64_t length, const Factor* panel, float* sums);

// Bᵀ d B of one tile d of 6 × 6 `pixels`, for all channels. The 36 values are `plane` apart.
template <class T>
using TransformInput = void (*)(const T* const* pixels, int64_t channels, int64_t plane, float* out);

// Bias, residual (may be null) and leaky ReLU of a panel's channels of neighbouring pixels. Pixels of the residual and
// of the result are `pitch` apart.
template <class T>
using Finish = void (*)(const float* sums, int64_t pixels, const float* bias, const T* residual, float slope,
                        int64_t pitch, T* out);

struct Kernels {
  int64_t rows;  // that are multiplied together

  std::tuple<Multiply<float>, Multiply<c10::BFloat16>> multiply;  // null where the processor lacks the instructions
  std::tuple<TransformInput<float>, TransformInput<c10::BFloat16>> transform_input;
  std::tuple<Finish<float>, Finish<c10::BFloat16>> finish;

  // Aᵀ m A of one tile's 36 products with a panel, which are `plane` apart: 4 × 4 pixels of kPanel channels.
  void (*transform_output)(const float* products, int64_t plane, float* out);

  // The same with 16-bit integers; null where the processor lacks the instructions.
  // All channels of a transformed value have one scale. The scales of a tile's 36 values are `scale_plane` apart.
  void (*transform_to_integers)(const c10::BFloat16* const* pixels, int64_t channels, int64_t plane,
                                int64_t scale_plane, float* scratch, int16_t* out, float* scales);
  // A float32 scale for each channel follows the integers of a panel.
  void (*multiply_integers)(const int16_t* rows, int64_t pitch, int64_t length, const int16_t* panel,
                            const float* row_scales, float* sums);
};

// The best kernels for this processor that ATEN_CPU_CAPABILITY allows, as it does torch's own. Null where torch's
// convolution is faster.
const Kernels* kernels();

}  // namespace yolact
