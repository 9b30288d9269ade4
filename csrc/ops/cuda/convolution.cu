#include "../convolution.h"

#include <torch/csrc/stable/library.h>

#include <type_traits>

#include "common.cuh"

namespace yolact {
namespace {

constexpr int kThreads = 256;

template <class T, int kWidth>
struct alignas(sizeof(T) * kWidth) Group {
  T values[kWidth];
};

// Adds the bias and the residual to the result of torch's convolution and applies the activation, in one pass. Each
// thread takes `kWidth` neighbouring channels.
template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    finish(Group<T, kWidth>* result, const float* bias, const Group<T, kWidth>* residual, float slope, int64_t groups,
           int64_t channels) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= groups) return;
  const int64_t channel = i * kWidth % channels;
  Group<T, kWidth> group = result[i];
  Group<T, kWidth> added{};
  if (residual != nullptr) added = residual[i];
#pragma unroll
  for (int n = 0; n < kWidth; ++n) {
    const float sum = static_cast<float>(group.values[n]) + bias[channel + n];
    const float value = residual != nullptr ? sum + static_cast<float>(added.values[n]) : sum;
    group.values[n] = static_cast<T>(activated(value, slope));
  }
  result[i] = group;
}

Tensor convolution_cuda(const Tensor& input, const Tensor& weight, const Tensor& packed, const Tensor& bias,
                        const std::optional<Tensor>& residual, int64_t stride, int64_t padding, double negative_slope) {
  const ConvolutionSizes sizes = check_convolution(input, weight, packed, bias, residual, stride, padding);
  const DeviceScope device(input);
  Tensor result = torch_convolution(input, weight, stride, padding);
  const Tensor offsets = torch::stable::contiguous(bias);
  const Tensor added = residual ? channels_last(*residual) : Tensor();
  const int64_t count = result.numel();
  if (count == 0) return result;
  dispatch_floating("convolution", "input", input.scalar_type(), [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    void* to = result.mutable_data_ptr();
    const void* plus = residual ? added.const_data_ptr() : nullptr;
    const auto launch = [&](auto width) {
      constexpr int kWidth = decltype(width)::value;
      using Values = Group<T, kWidth>;
      const int64_t groups = count / kWidth;
      finish<T, kWidth><<<grid_size("convolution", divide_up(groups, kThreads)), kThreads, 0, device.stream()>>>(
          static_cast<Values*>(to), offsets.const_data_ptr<float>(), static_cast<const Values*>(plus),
          static_cast<float>(negative_slope), groups, sizes.outputs);
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    };
    constexpr int kWide = 16 / sizeof(T);
    const bool aligned = (reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(plus)) % 16 == 0;
    if (sizes.outputs % kWide == 0 && aligned) {
      launch(std::integral_constant<int, kWide>{});
    } else {
      launch(std::integral_constant<int, 1>{});
    }
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(yolact, CUDA, m) { m.impl("convolution", TORCH_BOX(&convolution_cuda)); }

}  // namespace yolact
