// The library libyolact_runtime_cuda. It does not include <ATen/cuda/CUDAEvent.h>, which needs cuBLAS's headers: not
// every CUDA toolkit has them.
#include "cuda_graph.h"

#include <ATen/cuda/CUDAGraph.h>
#include <c10/core/Event.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <exception>
#include <memory>
#include <mutex>
#include <utility>

#include <yolact/export.h>

namespace yolact {
namespace {

using c10::cuda::CUDAStream;

constexpr int warm_ups = 3;  // TorchScript needs one run to record the shapes and one to compile for them

void make_wait(const c10::Stream& later, const c10::Stream& earlier) {
  c10::Event event(c10::DeviceType::CUDA);
  event.record(earlier);
  event.block(later);
}

// Runs `body` with `stream` as the current stream: after the work already queued on the caller's stream, and before
// any work that is queued there later.
template <class Body>
void run_on(const CUDAStream& stream, const Body& body) {
  const CUDAStream caller = c10::cuda::getCurrentCUDAStream(stream.device_index());
  make_wait(stream, caller);
  {
    const c10::cuda::CUDAStreamGuard guard(stream);
    body();
  }
  make_wait(caller, stream);
}

class Graph final : public CudaGraph {
 public:
  Graph(const CUDAStream& stream, std::shared_ptr<const c10::MempoolId_t> pool)
      : stream_(stream), pool_(std::move(pool)) {}

  // Records on the current stream.
  void record(const std::function<void()>& work) {
    // Thread-local capture, so that other threads may allocate meanwhile.
    graph_.capture_begin(*pool_, cudaStreamCaptureModeThreadLocal);
    try {
      work();
    } catch (...) {
      // Otherwise the stream would go on recording.
      try {
        graph_.capture_end();
      } catch (const std::exception&) {
      }
      throw;
    }
    graph_.capture_end();
  }

  void replay() override {
    run_on(stream_, [&] { graph_.replay(); });
  }

 private:
  const CUDAStream stream_;
  const std::shared_ptr<const c10::MempoolId_t> pool_;
  at::cuda::CUDAGraph graph_;
};

class Recorder final : public CudaGraphRecorder {
 public:
  explicit Recorder(int device)
      : stream_(c10::cuda::getStreamFromPool(/*isHighPriority=*/false, static_cast<c10::DeviceIndex>(device))) {}

  std::unique_ptr<CudaGraph> record(const std::function<void()>& work) override {
    static std::mutex capturing;  // torch allows a process one capture at a time
    const std::lock_guard lock(capturing);
    // A pool lives as long as some graph uses it.
    std::shared_ptr<const c10::MempoolId_t> pool = pool_.lock();
    if (!pool) pool_ = pool = std::make_shared<const c10::MempoolId_t>(at::cuda::graph_pool_handle());
    auto graph = std::make_unique<Graph>(stream_, pool);
    run_on(stream_, [&] {
      for (int i = 0; i < warm_ups; ++i) work();
      stream_.synchronize();
      c10::cuda::CUDACachingAllocator::emptyCache();  // torch cannot free memory during a capture
      graph->record(work);
    });
    return graph;
  }

 private:
  const CUDAStream stream_;
  std::weak_ptr<const c10::MempoolId_t> pool_;
};

}  // namespace
}  // namespace yolact

extern "C" YOLACT_API yolact::CudaGraphRecorder* yolact_make_cuda_graph_recorder(int device) {
  return new yolact::Recorder(device);
}
