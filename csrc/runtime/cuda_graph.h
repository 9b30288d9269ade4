// CUDA graphs. The library libyolact_runtime_cuda implements them, so that the runtime itself needs no CUDA.
#pragma once

#include <functional>
#include <memory>

namespace yolact {

// Recorded work.
class CudaGraph {
 public:
  virtual ~CudaGraph() = default;

  // Runs the work in one launch, in order with the other work on the current stream.
  virtual void replay() = 0;
};

// Records graphs. A recorder and its graphs share memory: only one thread at a time may use any of them.
class CudaGraphRecorder {
 public:
  virtual ~CudaGraphRecorder() = default;

  // Runs `work` a few times, then records it. `work` must queue the same operations on the current stream each time,
  // and must do nothing else.
  virtual std::unique_ptr<CudaGraph> record(const std::function<void()>& work) = 0;
};

// The function that the library exports. It makes a recorder for a device number; −1 is the current device.
using MakeCudaGraphRecorder = CudaGraphRecorder*(int device);
constexpr const char* make_cuda_graph_recorder_symbol = "yolact_make_cuda_graph_recorder";

}  // namespace yolact
