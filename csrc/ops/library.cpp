// Every operator schema of the library; yolact/ops/*.py documents each. Whoever changes one raises OPERATOR_SCHEMA in
// yolact/version.py too: Python and the runtime know by this number alone that a library is the one they were made for.
#include <torch/csrc/stable/library.h>

#include <cstdint>

namespace yolact {
namespace {

int64_t schema_version() { return YOLACT_OPERATOR_SCHEMA; }

}  // namespace

STABLE_TORCH_LIBRARY(yolact, m) {
  m.def("schema_version() -> int");
  m.def("pack_convolution(Tensor weight, int stride=1) -> Tensor");
  m.def(
      "convolution(Tensor input, Tensor weight, Tensor packed, Tensor bias, Tensor? residual=None, int stride=1, "
      "int padding=0, float negative_slope=1.0) -> Tensor");
  m.def(
      "fast_nms(Tensor boxes, Tensor scores, float iou_threshold, int top_k, float score_threshold, "
      "int max_detections) -> (Tensor indices, Tensor classes, Tensor scores, Tensor counts)");
  m.def(
      "detect(Tensor box_deltas, Tensor logits, Tensor anchors, float center_variance, float size_variance, "
      "float max_log_scale, bool clip, float iou_threshold, int top_k, float score_threshold, int max_detections) -> "
      "(Tensor boxes, Tensor scores, Tensor classes, Tensor indices, Tensor counts)");
  m.def("crop(Tensor masks, Tensor boxes, int padding=1) -> Tensor");
  m.def(
      "assemble_masks(Tensor prototypes, Tensor coefficients, Tensor boxes, int height, int width, "
      "float threshold=0.5) -> Tensor");
  m.def(
      "assemble_crops(Tensor prototypes, Tensor coefficients, Tensor boxes, int height, int width, "
      "float threshold=0.5) -> (Tensor pixels, Tensor crops, Tensor offsets)");
  m.def(
      "assemble_runs(Tensor prototypes, Tensor coefficients, Tensor boxes, int height, int width, "
      "float threshold=0.5) -> (Tensor counts, Tensor offsets)");
  m.def(
      "deform_columns(Tensor input, Tensor offsets, Tensor mask, int kernel_size, int stride=1, int padding=0, "
      "int dilation=1) -> Tensor");
  m.def(
      "deform_columns_backward(Tensor gradient, Tensor input, Tensor offsets, Tensor mask, int kernel_size, "
      "int stride, int padding, int dilation) -> (Tensor input, Tensor offsets, Tensor mask)");
}

STABLE_TORCH_LIBRARY_IMPL(yolact, CompositeExplicitAutograd, m) {
  m.impl("schema_version", TORCH_BOX(&schema_version));
}

}  // namespace yolact
