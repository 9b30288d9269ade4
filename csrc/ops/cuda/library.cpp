// The number of the CUDA library's own; see ../library.cpp.
#include <torch/csrc/stable/library.h>

#include <cstdint>

namespace yolact {
namespace {

int64_t cuda_schema_version() { return YOLACT_OPERATOR_SCHEMA; }

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(yolact, m) { m.def("cuda_schema_version() -> int"); }

STABLE_TORCH_LIBRARY_IMPL(yolact, CompositeExplicitAutograd, m) {
  m.impl("cuda_schema_version", TORCH_BOX(&cuda_schema_version));
}

}  // namespace yolact
