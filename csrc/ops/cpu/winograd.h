// Winograd's F(4×4, 3×3) (Lavin and Gray, arXiv:1509.09308): a tile of 4 × 4 results takes 36 products where a direct
// convolution takes 144. With B, G and A as in the paper, the results of a tile are Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A, for the
// 3 × 3 kernel g and the 6 × 6 pixels d below the tile. The products are added over the input channels, so that each of
// the 36 values is a matrix product of tiles × channels with channels × output channels.
#pragma once

#include "../convolution.h"
#include "convolution_blocks.h"
#include "kernels.h"

namespace yolact {

// G g Gᵀ of a 3 × 3 kernel g. Its 36 values are `plane` apart.
void transform_kernel(const float* kernel, int64_t plane, float* out);

// A 3×3 convolution of stride 1. `T` is float or bfloat16; `input` is channels-last. `packed` is as `PackedLayout`
// describes it.
template <class T>
void convolve_tiles(const Kernels& kernels, const T* input, const Tensor& packed, const ConvolutionSizes& sizes,
                    const Epilogue<T>& epilogue);

}  // namespace yolact
