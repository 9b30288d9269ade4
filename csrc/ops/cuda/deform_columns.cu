#include "../deform_columns.h"

#include <torch/csrc/stable/library.h>

#include <tuple>
#include <type_traits>

#include "common.cuh"

namespace yolact {
namespace {

constexpr int kThreads = 256;
constexpr int kTaps = kThreads / kWarp;  // in a block: each warp takes one, and its lanes share the channels

// The tap of this warp. `index` counts the taps of all pixels; the last warps may have none.
struct Place {
  int64_t index, pixel, tap;
  bool exists;

  __device__ explicit Place(const DeformGrid& grid)
      : index(static_cast<int64_t>(blockIdx.x) * kTaps + threadIdx.x / kWarp),
        pixel(index / grid.taps()),
        tap(index % grid.taps()),
        exists(index < grid.pixels() * grid.taps()) {}
};

template <class T, class Real>
__global__ void __launch_bounds__(kThreads)
    gather(DeformGrid grid, const T* maps, const Real* offsets, const Real* mask, T* columns) {
  const Place place(grid);
  if (!place.exists) return;
  const Corners<Real> corners = grid.corners(place.pixel, place.tap, offsets);
  const Real factor = mask[place.index];
  const T* map = maps + grid.image_of(place.pixel) * grid.height * grid.width * grid.channels;
  T* out = columns + place.index * grid.channels;
  for (int64_t k = threadIdx.x % kWarp; k < grid.channels; k += kWarp) {
    Real sum = 0;
    for (int i = 0; i < 4; ++i) {
      if (corners.weight[i] != Real(0)) {
        sum += corners.weight[i] * static_cast<Real>(map[corners.index[i] * grid.channels + k]);
      }
    }
    out[k] = static_cast<T>(factor * sum);
  }
}

template <class T, class Real>
__global__ void __launch_bounds__(kThreads)
    scatter(DeformGrid grid, const T* gradient, const T* maps, const Real* offsets, const Real* mask, Real* of_maps,
            Real* of_offsets, Real* of_mask) {
  const Place place(grid);
  if (!place.exists) return;  // the whole warp returns, so the shuffles below are safe
  const Corners<Real> corners = grid.corners(place.pixel, place.tap, offsets);
  const Real factor = mask[place.index];
  const int64_t first = grid.image_of(place.pixel) * grid.height * grid.width * grid.channels;
  Real value = 0, along_y = 0, along_x = 0;
  for (int64_t k = threadIdx.x % kWarp; k < grid.channels; k += kWarp) {
    const Real upstream = static_cast<Real>(gradient[place.index * grid.channels + k]);
    for (int i = 0; i < 4; ++i) {
      // A corner inside the map can have weight 0 and still a derivative. A corner outside has neither.
      if (corners.weight[i] == Real(0) && corners.along_y[i] == Real(0) && corners.along_x[i] == Real(0)) continue;
      const int64_t at = first + corners.index[i] * grid.channels + k;
      const Real product = upstream * static_cast<Real>(maps[at]);
      value += corners.weight[i] * product;
      along_y += corners.along_y[i] * product;
      along_x += corners.along_x[i] * product;
      if (corners.weight[i] != Real(0)) atomicAdd(of_maps + at, factor * corners.weight[i] * upstream);
    }
  }
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(kEveryLane, value, offset);
    along_y += __shfl_xor_sync(kEveryLane, along_y, offset);
    along_x += __shfl_xor_sync(kEveryLane, along_x, offset);
  }
  if (threadIdx.x % kWarp == 0) {
    of_mask[place.index] = value;
    of_offsets[2 * place.index] = factor * along_y;
    of_offsets[2 * place.index + 1] = factor * along_x;
  }
}

Tensor deform_columns_cuda(const Tensor& input, const Tensor& offsets, const Tensor& mask, int64_t kernel_size,
                           int64_t stride, int64_t padding, int64_t dilation) {
  const DeformGrid grid = check_deform_columns(input, offsets, mask, kernel_size, stride, padding, dilation);
  const DeviceScope device(input);
  const Tensor source = torch::stable::contiguous(input);
  const Tensor shifts = torch::stable::contiguous(offsets);
  const Tensor factors = torch::stable::contiguous(mask);
  Tensor columns = torch::stable::new_empty(input, columns_shape(grid));
  const int64_t blocks = divide_up(grid.pixels() * grid.taps(), kTaps);
  dispatch_with_double("deform_columns", input.scalar_type(), [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    using Real = typename Accumulator<T>::type;
    if (blocks == 0) return;
    gather<T, Real><<<grid_size("deform_columns", blocks), kThreads, 0, device.stream()>>>(
        grid, source.const_data_ptr<T>(), shifts.const_data_ptr<Real>(), factors.const_data_ptr<Real>(),
        columns.mutable_data_ptr<T>());
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return columns;
}

std::tuple<Tensor, Tensor, Tensor> deform_columns_backward_cuda(const Tensor& gradient, const Tensor& input,
                                                                const Tensor& offsets, const Tensor& mask,
                                                                int64_t kernel_size, int64_t stride, int64_t padding,
                                                                int64_t dilation) {
  const DeformGrid grid = check_deform_columns(input, offsets, mask, kernel_size, stride, padding, dilation);
  check_deform_gradient(gradient, input, grid);
  const DeviceScope device(input);
  const Tensor upper = torch::stable::contiguous(gradient);
  const Tensor source = torch::stable::contiguous(input);
  const Tensor shifts = torch::stable::contiguous(offsets);
  const Tensor factors = torch::stable::contiguous(mask);
  Tensor of_input = torch::stable::new_zeros(offsets, {grid.images, grid.height, grid.width, grid.channels});
  Tensor of_offsets = torch::stable::empty_like(shifts);
  Tensor of_mask = torch::stable::empty_like(factors);
  const int64_t blocks = divide_up(grid.pixels() * grid.taps(), kTaps);
  dispatch_with_double("deform_columns_backward", input.scalar_type(), [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    using Real = typename Accumulator<T>::type;
    if (blocks == 0) return;
    scatter<T, Real><<<grid_size("deform_columns_backward", blocks), kThreads, 0, device.stream()>>>(
        grid, upper.const_data_ptr<T>(), source.const_data_ptr<T>(), shifts.const_data_ptr<Real>(),
        factors.const_data_ptr<Real>(), of_input.mutable_data_ptr<Real>(), of_offsets.mutable_data_ptr<Real>(),
        of_mask.mutable_data_ptr<Real>());
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return {torch::stable::to(of_input, input.scalar_type()), of_offsets, of_mask};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(yolact, CUDA, m) {
  m.impl("deform_columns", TORCH_BOX(&deform_columns_cuda));
  m.impl("deform_columns_backward", TORCH_BOX(&deform_columns_backward_cuda));
}

}  // namespace yolact
