// What the CPU and CUDA kernels of `deform_columns` share: the checks of its arguments, and where a deformable
// convolution samples its input.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "arithmetic.h"
#include "checks.h"

namespace yolact {

// The pixels that the point (y, x) of a map is blended from: above left, above right, below left and below right.
// A pixel outside the map has weight 0 and the index of a pixel inside.
template <class Real>
struct Corners {
  int64_t index[4];  // row · width + column
  Real weight[4];
  Real along_y[4], along_x[4];  // derivatives of `weight`; where y or x is an integer, they are those from the right
};

// A point at NaN, or outside the map by a pixel or more, gives every corner the weight 0.
template <class Real>
YOLACT_HOST_DEVICE Corners<Real> corners_at(Real y, Real x, int64_t height, int64_t width) {
  Corners<Real> corners{};
  if (!(y > Real(-1) && x > Real(-1) && y < static_cast<Real>(height) && x < static_cast<Real>(width))) return corners;
  const Real top = floor(y);
  const Real left = floor(x);
  const Real down = y - top;
  const Real across = x - left;
  for (int i = 0; i < 4; ++i) {
    const bool below = i >= 2;
    const bool right = i % 2 == 1;
    const int64_t row = static_cast<int64_t>(top) + below;
    const int64_t column = static_cast<int64_t>(left) + right;
    if (row < 0 || row >= height || column < 0 || column >= width) continue;
    const Real vertical = below ? down : Real(1) - down;
    const Real horizontal = right ? across : Real(1) - across;
    corners.index[i] = row * width + column;
    corners.weight[i] = vertical * horizontal;
    corners.along_y[i] = below ? horizontal : -horizontal;
    corners.along_x[i] = right ? vertical : -vertical;
  }
  return corners;
}

// The sizes of a deformable convolution, and where each tap of each output pixel samples the input.
struct DeformGrid {
  int64_t images, height, width, channels;  // of the input
  int64_t rows, columns;                    // of the output
  int64_t kernel_size, stride, padding, dilation;

  YOLACT_HOST_DEVICE int64_t taps() const { return kernel_size * kernel_size; }
  YOLACT_HOST_DEVICE int64_t pixels() const { return images * rows * columns; }  // of the output
  YOLACT_HOST_DEVICE int64_t image_of(int64_t pixel) const { return pixel / (rows * columns); }

  // `offsets` holds (y, x) of every tap of every output pixel.
  template <class Real>
  YOLACT_HOST_DEVICE Corners<Real> corners(int64_t pixel, int64_t tap, const Real* offsets) const {
    const Real* offset = offsets + (pixel * taps() + tap) * 2;
    const int64_t row = pixel / columns % rows * stride - padding + tap / kernel_size * dilation;
    const int64_t column = pixel % columns * stride - padding + tap % kernel_size * dilation;
    return corners_at(static_cast<Real>(row) + offset[0], static_cast<Real>(column) + offset[1], height, width);
  }
};

inline DeformGrid check_deform_columns(const Tensor& input, const Tensor& offsets, const Tensor& mask,
                                       int64_t kernel_size, int64_t stride, int64_t padding, int64_t dilation) {
  STD_TORCH_CHECK(kernel_size > 0 && stride > 0 && padding >= 0 && dilation > 0,
                  "deform_columns: kernel_size, stride and dilation must be positive and padding not negative, got ",
                  kernel_size, ", ", stride, ", ", dilation, " and ", padding);
  STD_TORCH_CHECK(input.dim() == 4, "deform_columns: input must be [B, H, W, C], got ", shape_of(input));
  STD_TORCH_CHECK(input.size(1) > 0 && input.size(2) > 0, "deform_columns: input must have pixels, got ",
                  shape_of(input));
  const auto outputs = [&](int64_t size) {
    const int64_t room = size + 2 * padding - dilation * (kernel_size - 1) - 1;
    return room < 0 ? 0 : room / stride + 1;
  };
  const DeformGrid grid{input.size(0),          input.size(1), input.size(2), input.size(3), outputs(input.size(1)),
                        outputs(input.size(2)), kernel_size,   stride,        padding,       dilation};
  const auto fits = [&](const Tensor& tensor, int64_t values) {
    return tensor.dim() == 4 && tensor.size(0) == grid.images && tensor.size(1) == grid.rows &&
           tensor.size(2) == grid.columns && tensor.size(3) == values;
  };
  STD_TORCH_CHECK(fits(offsets, 2 * grid.taps()) && fits(mask, grid.taps()), "deform_columns: input ", shape_of(input),
                  " needs offsets [", grid.images, ", ", grid.rows, ", ", grid.columns, ", ", 2 * grid.taps(),
                  "] and a mask of half as many values, got ", shape_of(offsets), " and ", shape_of(mask));
  const ScalarType wanted = input.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  STD_TORCH_CHECK(offsets.scalar_type() == wanted && mask.scalar_type() == wanted,
                  "deform_columns: offsets and mask must be float32, or float64 with an input of float64");
  STD_TORCH_CHECK(same_device(input, offsets) && same_device(input, mask),
                  "deform_columns: input, offsets and mask must be on one device");
  return grid;
}

inline std::vector<int64_t> columns_shape(const DeformGrid& grid) {
  return {grid.images, grid.rows, grid.columns, grid.taps() * grid.channels};
}

inline void check_deform_gradient(const Tensor& gradient, const Tensor& input, const DeformGrid& grid) {
  bool fits = gradient.dim() == 4 && gradient.scalar_type() == input.scalar_type() && same_device(gradient, input);
  const std::vector<int64_t> shape = columns_shape(grid);
  for (int64_t dim = 0; fits && dim < 4; ++dim) fits = gradient.size(dim) == shape[dim];
  STD_TORCH_CHECK(fits, "deform_columns_backward: the gradient must be like the columns of input ", shape_of(input),
                  ", got ", shape_of(gradient));
}

// The type in which positions, weights and sums are computed for values of type T.
template <class T>
struct Accumulator {
  using type = float;
};
template <>
struct Accumulator<double> {
  using type = double;
};

// Like `dispatch_floating` of the input, but with float64, in which gradients are checked.
template <class Body>
void dispatch_with_double(const char* op, ScalarType dtype, const Body& body) {
  if (dtype == ScalarType::Double) return body(static_cast<double*>(nullptr));
  dispatch_floating(op, "input", dtype, body);
}

}  // namespace yolact
