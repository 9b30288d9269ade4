// The shared libraries that a model's operators live in.
#pragma once

#include <string>

namespace yolact {

// Loads the operators and, for "cuda" or "cuda:N", LibTorch's and the operators' CUDA kernels, unless the process
// already has them. Throws Error if a library is missing, or if the device is none that can be used.
void load_operators(const std::string& device);

}  // namespace yolact
