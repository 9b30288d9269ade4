// The shared libraries that a model's operators live in.
#pragma once

#include <memory>
#include <string>

#include "cuda_graph.h"

namespace yolact {

// Loads the operators and, for "cuda" or "cuda:N", LibTorch's and the operators' CUDA kernels, unless the process
// already has them. Throws Error if a library is missing, or if the device is none that can be used.
void load_operators(const std::string& device);

// For a device that `load_operators` has accepted. Throws Error if it is not CUDA, or the library is missing.
std::unique_ptr<CudaGraphRecorder> make_cuda_graph_recorder(const std::string& device);

}  // namespace yolact
