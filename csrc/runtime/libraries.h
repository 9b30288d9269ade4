// The shared libraries that hold a model's operators.
#pragma once

#include <memory>
#include <string>

#include "cuda_graph.h"

namespace yolact {

// Checks that the operators this runtime is linked to are those it was built for and, for "cuda" or "cuda:N", loads
// LibTorch's and the operators' CUDA kernels unless the process already has them. Throws Error if a library is missing
// or of another version, or if the device cannot be used.
void load_operators(const std::string& device);

// For a device that `load_operators` has accepted. Throws Error if it is not CUDA, or the library is missing.
std::unique_ptr<CudaGraphRecorder> make_cuda_graph_recorder(const std::string& device);

}  // namespace yolact
