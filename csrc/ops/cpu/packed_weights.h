// How `pack_convolution` lays out weights for the kernels of this processor.
#pragma once

#include <vector>

#include "../checks.h"
#include "kernels.h"

namespace yolact {

// Which kernels multiply the weights decides their layout:
// - [panels, taps, length, kPanel] float32; a direct convolution has one tap of K²·C values, Winograd's has kTaps of C;
// - [panels, 1, length / 2, 2·kPanel] bfloat16, in pairs of two neighbouring values; a zero completes the last pair;
// - [panels, taps, length / 2 + 1, 2·kPanel] int16, in such pairs; a float32 scale for each channel follows them.
struct PackedLayout {
  std::vector<int64_t> shape;
  ScalarType dtype = ScalarType::Float;

  PackedLayout(const Kernels& kernels, const Tensor& weight, int64_t stride);

  bool winograd() const { return shape[1] == kTaps; }
  int64_t panel_size() const { return shape[1] * shape[2] * shape[3]; }
  bool describes(const Tensor& packed) const;
};

// `weight` is [O, C, K, K]; the layout must be its own.
Tensor pack_weights(const Tensor& weight, const PackedLayout& layout);

}  // namespace yolact
