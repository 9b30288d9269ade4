// The convolution of any kernel size and stride: rows of pixels under the kernel times panels of weights.
#pragma once

#include "../convolution.h"
#include "convolution_blocks.h"
#include "kernels.h"

namespace yolact {

// `T` is float or bfloat16; `input` is channels-last. `packed` is as `PackedLayout` describes it.
template <class T>
void convolve_directly(const Kernels& kernels, const T* input, const Tensor& packed, const ConvolutionSizes& sizes,
                       const Epilogue<T>& epilogue);

}  // namespace yolact
