// What every kernel of this folder and its launch need.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include <cstdint>
#include <limits>

#include "../checks.h"

namespace yolact {

constexpr int kWarp = 32;
constexpr unsigned kEveryLane = 0xffffffffu;

// While it lives, the tensor's device is the current one.
class DeviceScope {
 public:
  explicit DeviceScope(const Tensor& tensor) : device_(tensor.get_device_index()), guard_(device_) {}

  // The stream that torch currently queues this device's work on.
  cudaStream_t stream() const {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device_, &stream));
    return static_cast<cudaStream_t>(stream);
  }

 private:
  int32_t device_;
  torch::stable::accelerator::DeviceGuard guard_;
};

__host__ __device__ constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Every grid has one dimension: the first reaches far beyond the 65535 of the others.
inline unsigned grid_size(const char* op, int64_t blocks) {
  STD_TORCH_CHECK(blocks <= std::numeric_limits<int32_t>::max(), op, ": too large for one launch: ", blocks, " blocks");
  return static_cast<unsigned>(blocks);
}

}  // namespace yolact
