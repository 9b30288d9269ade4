#include "libraries.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/Device.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <dlfcn.h>
#include <link.h>

#include <cstdint>
#include <filesystem>
#include <mutex>
#include <system_error>

#include <yolact/error.h>

namespace yolact {
namespace {

constexpr const char* operators_library = "libyolact_ops.so";

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

// Where the process has the operators' library from. It may lie elsewhere than beside the runtime: LD_LIBRARY_PATH comes
// first, and a Python process has the library of its package.
std::filesystem::path operators_path() {
  void* handle = dlopen(operators_library, RTLD_LAZY | RTLD_NOLOAD);
  const link_map* library = nullptr;
  if (!handle || dlinfo(handle, RTLD_DI_LINKMAP, &library) != 0) return operators_library;
  dlclose(handle);  // the runtime keeps it
  return library->l_name;
}

// Calls the operator that tells the schema number of the library at `path`.
void check_schema(const char* name, const std::filesystem::path& path) {
  const auto schema = c10::Dispatcher::singleton().findSchema({name, ""});
  const std::int64_t number = schema ? schema->typed<std::int64_t()>().call() : 0;
  if (number == YOLACT_OPERATOR_SCHEMA) return;
  throw Error(path.string() + " is of another version of yolact (schema number " +
              (schema ? std::to_string(number) : "missing") + ", needed is " + std::to_string(YOLACT_OPERATOR_SCHEMA) +
              "): replace it by the " + path.filename().string() + " of yolact " YOLACT_VERSION);
}

}  // namespace

void load_operators(const std::string& device) {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  const c10::Device parsed = parse(device);
  // torch looks for its CUDA part once, when it first runs a model, so it is loaded for a model on the CPU too: one on
  // CUDA may follow. Where there is no driver, that time is saved.
  if (dlopen("libcuda.so.1", RTLD_LAZY)) dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_LOCAL);
  const std::filesystem::path operators = operators_path();
  check_schema("yolact::schema_version", operators);
  if (!parsed.is_cuda()) return;
  load("libtorch_cuda.so", "; device " + device + " needs a LibTorch with CUDA");
  const auto* cuda = c10::impl::device_guard_impl_registry[static_cast<std::size_t>(c10::DeviceType::CUDA)].load();
  const int count = cuda ? cuda->deviceCount() : 0;
  if (count == 0) throw Error("device " + device + " was asked for, but no CUDA device was found");
  if (parsed.has_index() && parsed.index() >= count) {
    throw Error("device " + device + " was asked for, but there are only " + std::to_string(count));
  }
  const std::filesystem::path cuda_operators = operators.parent_path() / "libyolact_ops_cuda.so";
  load(cuda_operators, "; build the operators with a CUDA toolkit: YOLACT_CUDA=1");
  check_schema("yolact::cuda_schema_version", cuda_operators);
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
