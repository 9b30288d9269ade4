#include "../crop.h"

#include <torch/csrc/stable/library.h>

#include "common.cuh"

namespace yolact {
namespace {

constexpr int kThreads = 256;
constexpr int kRows = kThreads / kWarp;  // in a block: each warp takes one

// `word` with all bytes outside [begin, end) set to zero. Byte 0 is the first in memory.
template <class Word>
__device__ Word keep_bytes(Word word, int64_t begin, int64_t end) {
  const auto before = [](int64_t bytes) -> uint64_t {
    return bytes <= 0 ? 0 : bytes >= 8 ? ~uint64_t{0} : (uint64_t{1} << 8 * bytes) - 1;
  };
  return word & static_cast<Word>(before(end) & ~before(begin));
}

__device__ ulonglong2 keep_bytes(ulonglong2 word, int64_t begin, int64_t end) {
  return {keep_bytes(word.x, begin, end), keep_bytes(word.y, begin - 8, end - 8)};
}

// Zeroing and copying depend only on the size of an element, not on its type. So a row is treated as `words` words.
template <class Word>
__global__ void __launch_bounds__(kThreads)
    crop_rows(const Word* masks, const float* boxes, int64_t rows, int64_t height, int64_t width, int64_t padding,
              int64_t element_size, int64_t words, Word* cropped) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kRows + threadIdx.x / kWarp;
  if (row >= rows) return;
  const float* box = boxes + row / height * 4;
  const Range vertical = crop_range(box[1], box[3], height, padding);
  const Range columns = crop_range(box[0], box[2], width, padding);
  const int64_t y = row % height;
  const bool inside = vertical.begin <= y && y < vertical.end;
  const int64_t begin = inside ? columns.begin * element_size : 0;
  const int64_t end = inside ? columns.end * element_size : 0;
  constexpr int64_t size = sizeof(Word);
  for (int64_t i = threadIdx.x % kWarp; i < words; i += kWarp) {
    const int64_t first = i * size;
    Word word{};
    if (first < end && begin < first + size) word = keep_bytes(masks[row * words + i], begin - first, end - first);
    cropped[row * words + i] = word;
  }
}

Tensor crop_cuda(const Tensor& masks, const Tensor& boxes, int64_t padding) {
  const CropSizes sizes = check_crop(masks, boxes, padding);
  const DeviceScope device(masks);
  const Tensor source = torch::stable::contiguous(masks);
  const Tensor corners = torch::stable::contiguous(boxes);
  Tensor cropped = torch::stable::empty_like(source);
  const int64_t rows = sizes.masks * sizes.height;
  if (rows == 0 || sizes.width == 0) return cropped;

  const int64_t element_size = static_cast<int64_t>(source.element_size());
  const int64_t row_size = sizes.width * element_size;
  const void* from = source.const_data_ptr();
  void* to = cropped.mutable_data_ptr();
  const auto launch = [&](auto zero) {
    using Word = decltype(zero);
    crop_rows<Word><<<grid_size("crop", divide_up(rows, kRows)), kThreads, 0, device.stream()>>>(
        static_cast<const Word*>(from), corners.const_data_ptr<float>(), rows, sizes.height, sizes.width, padding,
        element_size, row_size / static_cast<int64_t>(sizeof(Word)), static_cast<Word*>(to));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  };
  // The largest word at whose multiples every row starts and ends.
  const uint64_t steps =
      reinterpret_cast<uintptr_t>(from) | reinterpret_cast<uintptr_t>(to) | static_cast<uint64_t>(row_size);
  if (steps % 16 == 0) {
    launch(ulonglong2{});
  } else if (steps % 8 == 0) {
    launch(uint64_t{});
  } else if (steps % 4 == 0) {
    launch(uint32_t{});
  } else if (steps % 2 == 0) {
    launch(uint16_t{});
  } else {
    launch(uint8_t{});
  }
  return cropped;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(yolact, CUDA, m) { m.impl("crop", TORCH_BOX(&crop_cuda)); }

}  // namespace yolact
