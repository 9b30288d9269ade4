// What the CPU and CUDA kernels of `convolution` share: the checks of its arguments, its activation, and torch's own
// convolution, which does the products on CUDA and wherever the weights are not packed.
#pragma once

#include <array>
#include <optional>
#include <vector>

#include "arithmetic.h"
#include "checks.h"

namespace yolact {

struct ConvolutionSizes {
  int64_t images, channels, height, width;
  int64_t outputs, rows, columns;  // of the result
  int64_t kernel_size, stride, padding;
};

inline void check_pack_convolution(const Tensor& weight, int64_t stride) {
  STD_TORCH_CHECK(weight.dim() == 4 && weight.size(2) == weight.size(3),
                  "pack_convolution: weight must be [O, C, K, K], got ", shape_of(weight));
  STD_TORCH_CHECK(weight.scalar_type() == ScalarType::Float || weight.scalar_type() == ScalarType::BFloat16,
                  "pack_convolution: weight must be float32 or bfloat16");
  STD_TORCH_CHECK(stride > 0, "pack_convolution: stride must be positive, got ", stride);
}

inline ConvolutionSizes check_convolution(const Tensor& input, const Tensor& weight, const Tensor& packed,
                                          const Tensor& bias, const std::optional<Tensor>& residual, int64_t stride,
                                          int64_t padding) {
  STD_TORCH_CHECK(stride > 0 && padding >= 0, "convolution: stride must be positive and padding not negative, got ",
                  stride, " and ", padding);
  STD_TORCH_CHECK(input.dim() == 4 && weight.dim() == 4 && weight.size(1) == input.size(1) && weight.size(1) > 0 &&
                      weight.size(2) == weight.size(3) && weight.size(2) > 0,
                  "convolution: input [B, C, H, W] needs a weight [O, C, K, K], got ", shape_of(input), " and ",
                  shape_of(weight));
  const int64_t kernel_size = weight.size(2);
  const auto results = [&](int64_t size) { return (size + 2 * padding - kernel_size) / stride + 1; };
  STD_TORCH_CHECK(input.size(2) + 2 * padding >= kernel_size && input.size(3) + 2 * padding >= kernel_size,
                  "convolution: the input ", shape_of(input), " with padding ", padding, " is smaller than the kernel ",
                  shape_of(weight));
  const ConvolutionSizes sizes{
      input.size(0),          input.size(1),          input.size(2), input.size(3), weight.size(0),
      results(input.size(2)), results(input.size(3)), kernel_size,   stride,        padding};
  STD_TORCH_CHECK(bias.dim() == 1 && bias.size(0) == sizes.outputs && bias.scalar_type() == ScalarType::Float,
                  "convolution: bias must be float32 [", sizes.outputs, "], got ", shape_of(bias));
  STD_TORCH_CHECK(weight.scalar_type() == input.scalar_type(), "convolution: input and weight must have one dtype");
  STD_TORCH_CHECK(same_device(input, weight) && same_device(input, packed) && same_device(input, bias),
                  "convolution: input, weight, packed and bias must be on one device");
  if (residual) {
    STD_TORCH_CHECK(residual->dim() == 4 && residual->size(0) == sizes.images && residual->size(1) == sizes.outputs &&
                        residual->size(2) == sizes.rows && residual->size(3) == sizes.columns &&
                        residual->scalar_type() == input.scalar_type() && same_device(input, *residual),
                    "convolution: residual must be like the result [", sizes.images, ", ", sizes.outputs, ", ",
                    sizes.rows, ", ", sizes.columns, "] of the input's dtype and device, got ", shape_of(*residual));
  }
  return sizes;
}

// Leaky ReLU: slope 0 gives a plain ReLU, slope 1 no activation.
YOLACT_HOST_DEVICE float activated(float value, float negative_slope) {
  return value > 0.0f ? value : multiply(value, negative_slope);
}

inline Tensor channels_last(const Tensor& tensor) {
  return torch::stable::contiguous(tensor, torch::headeronly::MemoryFormat::ChannelsLast);
}

// torch's convolution without bias. The result is channels-last.
inline Tensor torch_convolution(const Tensor& input, const Tensor& weight, int64_t stride, int64_t padding) {
  using torch::stable::detail::from;
  const std::vector<int64_t> strides{stride, stride}, paddings{padding, padding}, ones{1, 1};
  std::array<StableIValue, 7> stack{from(channels_last(input)),
                                    from(channels_last(weight)),
                                    from(std::nullopt),
                                    from(strides),
                                    from(paddings),
                                    from(ones),
                                    from(int64_t{1})};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::conv2d", "", stack.data(), TORCH_ABI_VERSION));
  return channels_last(torch::stable::detail::to<Tensor>(stack[0]));
}

}  // namespace yolact
