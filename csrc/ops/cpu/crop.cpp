#include "../crop.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstring>

namespace yolact {
namespace {

Tensor crop_cpu(const Tensor& masks, const Tensor& boxes, int64_t padding) {
  const auto [count, height, width] = check_crop(masks, boxes, padding);
  const Tensor source = torch::stable::contiguous(masks);
  const Tensor corners = torch::stable::contiguous(boxes);
  Tensor cropped = torch::stable::empty_like(source);
  // Zeroing and copying depend only on the size of an element, not on its type.
  const int64_t element = static_cast<int64_t>(source.element_size());
  const char* from = static_cast<const char*>(source.const_data_ptr());
  const float* box = corners.const_data_ptr<float>();
  char* to = static_cast<char*>(cropped.mutable_data_ptr());
  const int64_t row = width * element;
  const auto crop_masks = [=, height = height, width = width](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const Range columns = crop_range(box[4 * n], box[4 * n + 2], width, padding);
      const Range rows = crop_range(box[4 * n + 1], box[4 * n + 3], height, padding);
      const char* in = from + n * height * row;
      char* out = to + n * height * row;
      if (columns.begin == columns.end || rows.begin == rows.end) {
        std::memset(out, 0, height * row);
        continue;
      }
      std::memset(out, 0, rows.begin * row);
      for (int64_t y = rows.begin; y < rows.end; ++y) {
        std::memset(out + y * row, 0, columns.begin * element);
        std::memcpy(out + y * row + columns.begin * element, in + y * row + columns.begin * element,
                    (columns.end - columns.begin) * element);
        std::memset(out + y * row + columns.end * element, 0, (width - columns.end) * element);
      }
      std::memset(out + rows.end * row, 0, (height - rows.end) * row);
    }
  };
  const int64_t grain = std::max<int64_t>(1, 65536 / std::max<int64_t>(1, height * row));
  torch::stable::parallel_for(0, count, grain, crop_masks);
  return cropped;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(yolact, CPU, m) { m.impl("crop", TORCH_BOX(&crop_cpu)); }

}  // namespace yolact
