// What all kernels of this folder and their launches need.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include <cstdint>
#include <limits>

#include "../arithmetic.h"
#include "../checks.h"

namespace yolact {

constexpr int kWarp = 32;
constexpr unsigned kEveryLane = 0xffffffffu;

// Makes the tensor's device the current one for as long as it lives.
class DeviceScope {
 public:
  explicit DeviceScope(const Tensor& tensor) : device_(tensor.get_device_index()), guard_(device_) {}

  // The stream on which torch currently queues the work of this device.
  cudaStream_t stream() const {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device_, &stream));
    return static_cast<cudaStream_t>(stream);
  }

 private:
  int32_t device_;
  torch::stable::accelerator::DeviceGuard guard_;
};

// Every grid has one dimension: the first may have far more blocks than the 65535 of the others.
inline unsigned grid_size(const char* op, int64_t blocks) {
  STD_TORCH_CHECK(blocks <= std::numeric_limits<int32_t>::max(), op, ": too large for one launch: ", blocks, " blocks");
  return static_cast<unsigned>(blocks);
}

}  // namespace yolact
