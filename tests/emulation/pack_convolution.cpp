// Weights are not packed on CUDA.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "checks.h"

namespace yolact {
namespace {

Tensor pack_convolution(const Tensor& weight, int64_t) { return torch::stable::new_empty(weight, {0}); }

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(yolact, CPU, m) { m.impl("pack_convolution", TORCH_BOX(&pack_convolution)); }

}  // namespace yolact
