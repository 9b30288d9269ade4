#include "libraries.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/Device.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <dlfcn.h>

#include <filesystem>
#include <mutex>
#include <system_error>

#include <yolact/error.h>

namespace yolact {
namespace {

std::filesystem::path own_folder() {
  Dl_info library{};
  dladdr(reinterpret_cast<void*>(&load_operators), &library);
  std::error_code ignored;
  return std::filesystem::weakly_canonical(library.dli_fname, ignored).parent_path();
}

void* load(const std::string& library, const std::string& hint) {
  if (void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL)) return handle;
  throw Error("a library cannot be loaded: " + std::string(dlerror()) + hint);
}

c10::Device parse(const std::string& device) {
  try {
    const c10::Device parsed(device);
    if (parsed.is_cpu() || parsed.is_cuda()) return parsed;
  } catch (const c10::Error&) {
  }
  throw Error("device '" + device + "' is not supported: give cpu, cuda or cuda:0, cuda:1, ...");
}

}  // namespace

// Registering an operator twice is fatal, and a Python process may have them from yolact/_ops.abi3.so: hence loading by
// name, and only what the dispatcher lacks, instead of linking.
void load_operators(const std::string& device) {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  const auto find = [](const char* name) { return c10::Dispatcher::singleton().findSchema({name, ""}); };
  const char* first = "yolact::fast_nms";
  const char* newest = "yolact::convolution";
  const c10::Device parsed = parse(device);
  // torch looks for its CUDA part once, when it first runs a model, so it is loaded for a model on the CPU too: one on
  // CUDA may follow. Where there is no driver, that time is saved.
  if (dlopen("libcuda.so.1", RTLD_LAZY)) dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_LOCAL);
  if (parsed.is_cuda()) {
    load("libtorch_cuda.so", "; device " + device + " needs a LibTorch with CUDA");
    const auto* cuda = c10::impl::device_guard_impl_registry[static_cast<std::size_t>(c10::DeviceType::CUDA)].load();
    const int count = cuda ? cuda->deviceCount() : 0;
    if (count == 0) throw Error("device " + device + " was asked for, but no CUDA device was found");
    if (parsed.has_index() && parsed.index() >= count) {
      throw Error("device " + device + " was asked for, but there are only " + std::to_string(count));
    }
  }
  if (!find(first)) load(own_folder() / "libyolact_ops.so", "; it belongs beside libyolact_runtime");
  if (!find(newest)) {
    throw Error(std::string("the operators are of an older yolact and lack ") + newest + ": use libyolact_ops of yolact " +
                YOLACT_VERSION + ", or build yolact/_ops.abi3.so again where Python has loaded it");
  }
  if (parsed.is_cuda() && !find(newest)->hasKernelForDispatchKey(c10::DispatchKey::CUDA)) {
    load(own_folder() / "libyolact_ops_cuda.so", "; build the operators with a CUDA toolkit: -DYOLACT_CUDA=ON");
  }
}

std::unique_ptr<CudaGraphRecorder> make_cuda_graph_recorder(const std::string& device) {
  const c10::Device parsed = parse(device);
  if (!parsed.is_cuda()) throw Error("CUDA graphs need a model on CUDA, this one is on " + device);
  void* library = load(own_folder() / "libyolact_runtime_cuda.so", "; build with a CUDA toolkit: -DYOLACT_CUDA=ON");
  void* make = dlsym(library, make_cuda_graph_recorder_symbol);
  if (!make) throw Error("libyolact_runtime_cuda is not of yolact " YOLACT_VERSION);
  return std::unique_ptr<CudaGraphRecorder>(reinterpret_cast<MakeCudaGraphRecorder*>(make)(parsed.index()));
}

}  // namespace yolact
