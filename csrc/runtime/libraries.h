// Loads the shared libraries that hold a model's operators.
#pragma once

#include <memory>
#include <string>

#include "cuda_graph.h"

namespace yolact {

// Checks that the loaded operators are those that this runtime was built for. For "cuda" or "cuda:N", it also loads the
// CUDA kernels of LibTorch and of the operators, unless the process has them already. Throws Error if a library is
// missing or belongs to another version, or if the device cannot be used.
void load_operators(const std::string& device);

// Call `load_operators` for the device first. Throws Error if the device is not CUDA or if the library is missing.
std::unique_ptr<CudaGraphRecorder> make_cuda_graph_recorder(const std::string& device);

}  // namespace yolact
