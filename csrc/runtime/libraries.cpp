#include "libraries.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/Device.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <dlfcn.h>
#ifdef __APPLE__
#include <mach-o/dyld.h>
#else
#include <link.h>
#endif

#include <cstdint>
#include <filesystem>
#include <mutex>
#include <system_error>

#include <yolact/error.h>

namespace yolact {
namespace {

#ifdef __APPLE__
constexpr const char* operators_library = "libyolact_ops.dylib";
#else
constexpr const char* operators_library = "libyolact_ops.so";
#endif

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
    throw Error("'" + device + "' is not a device: give cpu, cuda or cuda:0, cuda:1, …");
  }
  throw Error("device " + device + " is not supported: give cpu or cuda");
}

// The path of the operators' library that this process has loaded. It need not be in the runtime's folder:
// LD_LIBRARY_PATH comes first, and a Python process uses the library of its package.
std::filesystem::path operators_path() {
#ifdef __APPLE__
  for (std::uint32_t i = 0; i < _dyld_image_count(); ++i) {
    const std::filesystem::path path = _dyld_get_image_name(i);
    if (path.filename() == operators_library) return path;
  }
  return operators_library;
#else
  void* handle = dlopen(operators_library, RTLD_LAZY | RTLD_NOLOAD);
  const link_map* library = nullptr;
  if (!handle || dlinfo(handle, RTLD_DI_LINKMAP, &library) != 0) return operators_library;
  dlclose(handle);  // the library stays loaded, because the runtime is linked to it
  return library->l_name;
#endif
}

// Compares the schema number of the library at `path`, which its operator `name` returns, with the runtime's.
void check_schema(const char* name, const std::filesystem::path& path) {
  const auto schema = c10::Dispatcher::singleton().findSchema({name, ""});
  const std::int64_t number = schema ? schema->typed<std::int64_t()>().call() : 0;
  if (number == YOLACT_OPERATOR_SCHEMA) return;
  throw Error(path.string() + " belongs to another version of yolact (schema number " +
              (schema ? std::to_string(number) : "missing") + ", this version needs " +
              std::to_string(YOLACT_OPERATOR_SCHEMA) + "): replace it with the " + path.filename().string() +
              " of yolact " YOLACT_VERSION);
}

}  // namespace

void load_operators(const std::string& device) {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  const c10::Device parsed = parse(device);
  // torch looks for its CUDA part only once, when it first runs a model. It is therefore loaded for a model on the CPU
  // too, since a model on CUDA may follow. Without a CUDA driver it is not loaded, which saves time.
  if (dlopen("libcuda.so.1", RTLD_LAZY)) dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_LOCAL);
  const std::filesystem::path operators = operators_path();
  check_schema("yolact::schema_version", operators);
  if (!parsed.is_cuda()) return;
  load("libtorch_cuda.so", "; device " + device + " needs a LibTorch that was built with CUDA");
  const auto* cuda = c10::impl::device_guard_impl_registry[static_cast<std::size_t>(c10::DeviceType::CUDA)].load();
  const int count = cuda ? cuda->deviceCount() : 0;
  if (count == 0) throw Error("device " + device + " was asked for, but LibTorch finds no CUDA device");
  if (parsed.has_index() && parsed.index() >= count) {
    throw Error("device " + device + " was asked for, but there are " + std::to_string(count) + " CUDA devices");
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
  if (!make) {
    throw Error(
        "libyolact_runtime_cuda.so belongs to another version of yolact: replace it with the one of "
        "yolact " YOLACT_VERSION);
  }
  return std::unique_ptr<CudaGraphRecorder>(reinterpret_cast<MakeCudaGraphRecorder*>(make)(parsed.index()));
}

}  // namespace yolact
