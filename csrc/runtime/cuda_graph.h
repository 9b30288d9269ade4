// Work on CUDA recorded as graphs. libyolact_runtime_cuda has it, so that the runtime itself needs no CUDA.
#pragma once

#include <functional>
#include <memory>

namespace yolact {

// Recorded work.
class CudaGraph {
 public:
  virtual ~CudaGraph() = default;

  // Does it in one launch, after all that the current stream was given before and before all that it is given next.
  virtual void replay() = 0;
};

// Its graphs share memory: only one thread at a time may call anything of it and of them.
class CudaGraphRecorder {
 public:
  virtual ~CudaGraphRecorder() = default;

  // Does `work` a few times and records it. All it may do is queue the same work on the current stream each time.
  virtual std::unique_ptr<CudaGraph> record(const std::function<void()>& work) = 0;
};

// The function of the library: a recorder of the device of that number, or of the current one for −1.
using MakeCudaGraphRecorder = CudaGraphRecorder*(int device);
constexpr const char* make_cuda_graph_recorder_symbol = "yolact_make_cuda_graph_recorder";

}  // namespace yolact
