#include "../deform_columns.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>
#include <type_traits>

#include "simd.h"

namespace yolact {
namespace {

constexpr int64_t kPixels = 16;    // the fewest that a thread takes
constexpr int64_t kChannels = 64;  // whose gradients one thread adds up together

// Pointers to the first channels of the four corners of a point.
template <class T>
struct CornerPixels {
  const T* at[4];

  template <class Real>
  CornerPixels(const T* map, const Corners<Real>& corners, int64_t channels) {
    for (int i = 0; i < 4; ++i) at[i] = map + corners.index[i] * channels;
  }
};

template <class T, class Real>
YOLACT_SIMD void blend_channels(const T* a, const T* b, const T* c, const T* d, const Real* weights, int64_t channels,
                                T* out) {
  const Real wa = weights[0], wb = weights[1], wc = weights[2], wd = weights[3];
#pragma omp simd
  for (int64_t k = 0; k < channels; ++k) {
    out[k] = static_cast<T>(wa * static_cast<Real>(a[k]) + wb * static_cast<Real>(b[k]) +
                            (wc * static_cast<Real>(c[k]) + wd * static_cast<Real>(d[k])));
  }
}

// The dot products of `gradient` with the channels of the four corners.
template <class T, class Real>
YOLACT_SIMD void dot_channels(const T* gradient, const T* a, const T* b, const T* c, const T* d, int64_t channels,
                              Real* dots) {
  Real sa = 0, sb = 0, sc = 0, sd = 0;
#pragma omp simd reduction(+ : sa, sb, sc, sd)
  for (int64_t k = 0; k < channels; ++k) {
    const Real g = static_cast<Real>(gradient[k]);
    sa += g * static_cast<Real>(a[k]);
    sb += g * static_cast<Real>(b[k]);
    sc += g * static_cast<Real>(c[k]);
    sd += g * static_cast<Real>(d[k]);
  }
  dots[0] = sa, dots[1] = sb, dots[2] = sc, dots[3] = sd;
}

template <class T, class Real>
YOLACT_SIMD void add_scaled(const T* gradient, Real weight, int64_t channels, Real* sum) {
#pragma omp simd
  for (int64_t k = 0; k < channels; ++k) sum[k] += weight * static_cast<Real>(gradient[k]);
}

Tensor deform_columns_cpu(const Tensor& input, const Tensor& offsets, const Tensor& mask, int64_t kernel_size,
                          int64_t stride, int64_t padding, int64_t dilation) {
  const DeformGrid grid = check_deform_columns(input, offsets, mask, kernel_size, stride, padding, dilation);
  const Tensor source = torch::stable::contiguous(input);
  const Tensor shifts = torch::stable::contiguous(offsets);
  const Tensor factors = torch::stable::contiguous(mask);
  Tensor columns = torch::stable::new_empty(input, columns_shape(grid));
  dispatch_with_double("deform_columns", input.scalar_type(), [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    using Real = typename Accumulator<T>::type;
    const T* maps = source.const_data_ptr<T>();
    const Real* offset = shifts.const_data_ptr<Real>();
    const Real* factor = factors.const_data_ptr<Real>();
    T* out = columns.mutable_data_ptr<T>();
    torch::stable::parallel_for(0, grid.pixels(), kPixels, [&](int64_t begin, int64_t end) {
      for (int64_t pixel = begin; pixel < end; ++pixel) {
        const T* map = maps + grid.image_of(pixel) * grid.height * grid.width * grid.channels;
        for (int64_t tap = 0; tap < grid.taps(); ++tap) {
          Corners<Real> corners = grid.corners(pixel, tap, offset);
          const int64_t place = pixel * grid.taps() + tap;
          for (Real& weight : corners.weight) weight *= factor[place];
          const CornerPixels<T> pixels(map, corners, grid.channels);
          blend_channels(pixels.at[0], pixels.at[1], pixels.at[2], pixels.at[3], corners.weight, grid.channels,
                         out + place * grid.channels);
        }
      }
    });
  });
  return columns;
}

// One thread computes each sum, in one order, so that results repeat: threads share the gradient of the input by
// channels, and that of the offsets by pixels.
std::tuple<Tensor, Tensor, Tensor> deform_columns_backward_cpu(const Tensor& gradient, const Tensor& input,
                                                               const Tensor& offsets, const Tensor& mask,
                                                               int64_t kernel_size, int64_t stride, int64_t padding,
                                                               int64_t dilation) {
  const DeformGrid grid = check_deform_columns(input, offsets, mask, kernel_size, stride, padding, dilation);
  check_deform_gradient(gradient, input, grid);
  const Tensor upper = torch::stable::contiguous(gradient);
  const Tensor source = torch::stable::contiguous(input);
  const Tensor shifts = torch::stable::contiguous(offsets);
  const Tensor factors = torch::stable::contiguous(mask);
  Tensor of_input = torch::stable::new_zeros(offsets, {grid.images, grid.height, grid.width, grid.channels});
  Tensor of_offsets = torch::stable::empty_like(shifts);
  Tensor of_mask = torch::stable::empty_like(factors);
  dispatch_with_double("deform_columns_backward", input.scalar_type(), [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    using Real = typename Accumulator<T>::type;
    const int64_t map_size = grid.height * grid.width * grid.channels;
    const T* upstream = upper.const_data_ptr<T>();
    const T* maps = source.const_data_ptr<T>();
    const Real* offset = shifts.const_data_ptr<Real>();
    const Real* factor = factors.const_data_ptr<Real>();
    Real* to_input = of_input.mutable_data_ptr<Real>();
    Real* to_offsets = of_offsets.mutable_data_ptr<Real>();
    Real* to_mask = of_mask.mutable_data_ptr<Real>();
    torch::stable::parallel_for(0, grid.pixels(), kPixels, [&](int64_t begin, int64_t end) {
      for (int64_t pixel = begin; pixel < end; ++pixel) {
        for (int64_t tap = 0; tap < grid.taps(); ++tap) {
          const Corners<Real> corners = grid.corners(pixel, tap, offset);
          const CornerPixels<T> pixels(maps + grid.image_of(pixel) * map_size, corners, grid.channels);
          const int64_t place = pixel * grid.taps() + tap;
          Real dots[4];
          dot_channels(upstream + place * grid.channels, pixels.at[0], pixels.at[1], pixels.at[2], pixels.at[3],
                       grid.channels, dots);
          Real value = 0, along_y = 0, along_x = 0;
          for (int i = 0; i < 4; ++i) {
            value += corners.weight[i] * dots[i];
            along_y += corners.along_y[i] * dots[i];
            along_x += corners.along_x[i] * dots[i];
          }
          to_mask[place] = value;
          to_offsets[2 * place] = along_y * factor[place];
          to_offsets[2 * place + 1] = along_x * factor[place];
        }
      }
    });
    const int64_t shares = (grid.channels + kChannels - 1) / kChannels;
    const int64_t image_pixels = grid.rows * grid.columns;
    torch::stable::parallel_for(0, grid.images * shares, 1, [&](int64_t begin, int64_t end) {
      for (int64_t share = begin; share < end; ++share) {
        const int64_t image = share / shares;
        const int64_t first = share % shares * kChannels;
        const int64_t count = std::min(kChannels, grid.channels - first);
        Real* sums = to_input + image * map_size + first;
        for (int64_t pixel = image * image_pixels; pixel < (image + 1) * image_pixels; ++pixel) {
          for (int64_t tap = 0; tap < grid.taps(); ++tap) {
            const Corners<Real> corners = grid.corners(pixel, tap, offset);
            const int64_t place = pixel * grid.taps() + tap;
            for (int i = 0; i < 4; ++i) {
              if (corners.weight[i] == 0) continue;
              add_scaled(upstream + place * grid.channels + first, corners.weight[i] * factor[place], count,
                         sums + corners.index[i] * grid.channels);
            }
          }
        }
      }
    });
  });
  return {torch::stable::to(of_input, input.scalar_type()), of_offsets, of_mask};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(yolact, CPU, m) {
  m.impl("deform_columns", TORCH_BOX(&deform_columns_cpu));
  m.impl("deform_columns_backward", TORCH_BOX(&deform_columns_backward_cpu));
}

}  // namespace yolact
