#include "../convolution.h"

#include <torch/csrc/stable/library.h>

#include <optional>
#include <type_traits>

#include "convolution_blocks.h"
#include "direct_convolution.h"
#include "kernels.h"
#include "packed_weights.h"
#include "winograd.h"

namespace yolact {
namespace {

Tensor pack_convolution_cpu(const Tensor& weight, int64_t stride) {
  check_pack_convolution(weight, stride);
  const Kernels* best = kernels();
  if (best == nullptr) return torch::stable::new_empty(weight, {0});
  return pack_weights(weight, PackedLayout(*best, weight, stride));
}

// The convolution with packed weights, by the kernels of this folder.
Tensor convolve_packed(const Tensor& input, const Tensor& weight, const Tensor& packed, const Tensor& bias,
                       const std::optional<Tensor>& residual, const ConvolutionSizes& sizes, float slope) {
  const Kernels* best = kernels();
  std::optional<PackedLayout> layout;
  if (best != nullptr) layout.emplace(*best, weight, sizes.stride);
  STD_TORCH_CHECK(layout && layout->describes(packed),
                  "convolution: packed must be what pack_convolution makes on this machine of the weight ",
                  shape_of(weight), " with stride ", sizes.stride, ", got ", shape_of(packed));
  const Tensor pixels = channels_last(input), offsets = torch::stable::contiguous(bias);
  const Tensor added = residual ? channels_last(*residual) : Tensor();
  Tensor result = torch::stable::empty(std::vector<int64_t>{sizes.images, sizes.outputs, sizes.rows, sizes.columns},
                                       input.scalar_type(), std::nullopt, input.device(), std::nullopt,
                                       torch::headeronly::MemoryFormat::ChannelsLast);
  const auto convolve = [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const Epilogue<T> epilogue(*best, offsets.const_data_ptr<float>(), residual ? added.const_data_ptr<T>() : nullptr,
                               slope, sizes.outputs, result.mutable_data_ptr<T>());
    if (layout->winograd()) {
      convolve_tiles(*best, pixels.const_data_ptr<T>(), packed, sizes, epilogue);
    } else {
      convolve_directly(*best, pixels.const_data_ptr<T>(), packed, sizes, epilogue);
    }
  };
  if (input.scalar_type() == ScalarType::BFloat16) {
    convolve(static_cast<c10::BFloat16*>(nullptr));
  } else {
    convolve(static_cast<float*>(nullptr));
  }
  return result;
}

// torch's convolution, followed by bias, residual and activation.
Tensor convolve_with_torch(const Tensor& input, const Tensor& weight, const Tensor& bias,
                           const std::optional<Tensor>& residual, const ConvolutionSizes& sizes, float slope) {
  Tensor result = torch_convolution(input, weight, sizes.stride, sizes.padding);
  const Tensor offsets = torch::stable::contiguous(bias);
  const Tensor added = residual ? channels_last(*residual) : Tensor();
  dispatch_floating("convolution", "input", input.scalar_type(), [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const float* offset = offsets.const_data_ptr<float>();
    const T* addend = residual ? added.const_data_ptr<T>() : nullptr;
    T* values = result.mutable_data_ptr<T>();
    const int64_t channels = sizes.outputs;
    torch::stable::parallel_for(0, sizes.images * sizes.rows * sizes.columns, 64, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin * channels; i < end * channels; ++i) {
        const float sum = static_cast<float>(values[i]) + offset[i % channels];
        values[i] = static_cast<T>(activated(addend ? sum + static_cast<float>(addend[i]) : sum, slope));
      }
    });
  });
  return result;
}

Tensor convolution_cpu(const Tensor& input, const Tensor& weight, const Tensor& packed, const Tensor& bias,
                       const std::optional<Tensor>& residual, int64_t stride, int64_t padding, double negative_slope) {
  const ConvolutionSizes sizes = check_convolution(input, weight, packed, bias, residual, stride, padding);
  const float slope = static_cast<float>(negative_slope);
  const bool known = input.scalar_type() == ScalarType::Float || input.scalar_type() == ScalarType::BFloat16;
  if (known && packed.numel() > 0) return convolve_packed(input, weight, packed, bias, residual, sizes, slope);
  return convolve_with_torch(input, weight, bias, residual, sizes, slope);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(yolact, CPU, m) {
  m.impl("pack_convolution", TORCH_BOX(&pack_convolution_cpu));
  m.impl("convolution", TORCH_BOX(&convolution_cpu));
}

}  // namespace yolact
