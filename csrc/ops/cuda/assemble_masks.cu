#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <type_traits>

#include "../geometry.h"
#include "common.cuh"

namespace yolact {
namespace {

constexpr int kPixels = 16;  // of one store: a word
constexpr int kTileWords = 8;
constexpr int kTileWidth = kTileWords * kPixels;
constexpr int kTileHeight = 32;
constexpr int kThreads = kTileWords * kTileHeight;
// Mask pixels of a tile, enough unless the image is smaller than the mask. A tile
// reaches up to kPixels − 1 pixels further left where the rows of the image are not aligned to words.
constexpr int kPatch = (kTileWidth + kPixels + 1) * (kTileHeight + 2);
constexpr int kDotLanes = 8;  // that share a dot product: 32 bytes of float32 a load
constexpr int64_t kBlocks = 4096;  // enough to fill any GPU several times over

// How one axis of the image samples the same axis of the mask.
struct Axis {
  int64_t image_size, mask_size;
  float scale;

  Axis(int64_t image, int64_t mask)
      : image_size(image), mask_size(mask), scale(static_cast<float>(mask) / static_cast<float>(image)) {}

  __device__ Sample sample(int64_t pixel) const { return bilinear_sample(pixel, scale, mask_size); }

  __device__ int64_t next(int64_t index) const { return index + 1 < mask_size ? index + 1 : index; }

  // The first pixel that samples at mask pixel `index` or after it.
  __device__ int64_t first_pixel(int64_t index) const {
    int64_t low = 0;
    int64_t high = image_size;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (sample(middle).index < index) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }

  // Mask pixels that the pixels of a range that is not empty are blended from.
  __device__ Range tapped(Range pixels) const {
    return {sample(pixels.begin).index, next(sample(pixels.end - 1).index) + 1};
  }
};

// The mask of one detection at the resolution of the prototypes, zero outside rows × columns.
template <class T>
struct SoftMask {
  const T* prototypes;
  const T* coefficients;
  int64_t channels, width;
  Range rows, columns;

  __device__ bool contains(int64_t row, int64_t column) const {
    return rows.begin <= row && row < rows.end && columns.begin <= column && column < columns.end;
  }

  // Terms first, first + step, ... of Σ coefficients · prototypes.
  __device__ float dot(int64_t row, int64_t column, int first, int step) const {
    const T* pixel = prototypes + (row * width + column) * channels;
    float sum = 0.0f;
    for (int64_t k = first; k < channels; k += step) {
      sum += static_cast<float>(pixel[k]) * static_cast<float>(coefficients[k]);
    }
    return sum;
  }
};

__device__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// Soft-mask values of rows × columns, row by row, into `patch`; called by the whole block.
template <class T>
__device__ void fill_patch(const SoftMask<T>& soft, Range rows, Range columns, float* patch) {
  constexpr int values = kThreads / kDotLanes;
  const int pitch = static_cast<int>(columns.end - columns.begin);
  const int count = static_cast<int>(rows.end - rows.begin) * pitch;
  const int lane = threadIdx.x % kDotLanes;
  // Every lane of a warp takes every turn, as the shuffles need.
  for (int base = 0; base < count; base += values) {
    const int i = base + threadIdx.x / kDotLanes;
    const int64_t row = rows.begin + i / pitch;
    const int64_t column = columns.begin + i % pitch;
    const bool inside = i < count && soft.contains(row, column);
    float sum = inside ? soft.dot(row, column, lane, kDotLanes) : 0.0f;
    for (int offset = kDotLanes / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(kEveryLane, sum, offset);
    if (lane == 0 && i < count) patch[i] = inside ? sigmoid(sum) : 0.0f;
  }
}

// Bit i: whether pixel start + i of row y lies in `x` and exceeds the threshold. `value(row, column)` is the soft mask.
template <class Value>
__device__ unsigned threshold_word(const Value& value, const Axis& down, const Axis& across, int64_t y, int64_t start,
                                   Range x, float threshold) {
  const Sample vertical = down.sample(y);
  const int64_t below = down.next(vertical.index);
  const auto blend = [&](int64_t column) {
    return interpolate(value(vertical.index, column), value(below, column), vertical.fraction);
  };
  unsigned bits = 0;
  int64_t index = -1;
  float left = 0.0f;
  float right = 0.0f;
  for (int i = 0; i < kPixels; ++i) {
    if (start + i < x.begin || start + i >= x.end) continue;
    const Sample horizontal = across.sample(start + i);
    if (horizontal.index != index) {
      index = horizontal.index;
      left = blend(index);
      right = blend(across.next(index));
    }
    if (interpolate(left, right, horizontal.fraction) > threshold) bits |= 1u << i;
  }
  return bits;
}

// The four lowest bits as a byte each.
__device__ unsigned spread(unsigned bits) { return (bits & 0xfu) * 0x00204081u & 0x01010101u; }

// Sets the pixels that `bits` names of the word at `start` of a row that is all false.
__device__ void store_word(unsigned bits, int64_t start, int64_t width, bool* row) {
  if (bits == 0) return;
  if (start >= 0 && start + kPixels <= width) {
    *reinterpret_cast<uint4*>(row + start) =
        make_uint4(spread(bits), spread(bits >> 4), spread(bits >> 8), spread(bits >> 12));
    return;
  }
  // The word's other bytes belong to a neighbouring row, and so to another thread.
  for (int i = 0; i < kPixels; ++i) {
    if (bits >> i & 1u) row[start + i] = true;
  }
}

// Each detection has `blocks` blocks, which take turns at the tiles of its box. `masks` is all false.
template <class T>
__global__ void __launch_bounds__(kThreads)
    assemble(const T* prototypes, const T* coefficients, const float* boxes, int64_t detections, int64_t channels,
             Axis down, Axis across, float threshold, int64_t blocks, bool* masks) {
  const int64_t n = blockIdx.x / blocks;
  const float* box = boxes + 4 * n;
  const SoftMask<T> soft{prototypes + n / detections * down.mask_size * across.mask_size * channels,
                         coefficients + n * channels,
                         channels,
                         across.mask_size,
                         crop_range(box[1], box[3], down.mask_size, 1),
                         crop_range(box[0], box[2], across.mask_size, 1)};
  if (soft.rows.begin == soft.rows.end || soft.columns.begin == soft.columns.end) return;

  // Pixels that the crop has a share in: one that samples just before it still blends its first mask pixel in.
  __shared__ int64_t ends[4];
  if (threadIdx.x < 4) {
    const Axis axis = threadIdx.x < 2 ? across : down;
    const Range range = threadIdx.x < 2 ? soft.columns : soft.rows;
    ends[threadIdx.x] = axis.first_pixel(threadIdx.x % 2 ? range.end : range.begin - 1);
  }
  __syncthreads();
  const Range x{ends[0], ends[1]};
  const Range y{ends[2], ends[3]};
  if (x.begin == x.end || y.begin == y.end) return;

  __shared__ float patch[kPatch];
  const int64_t first = x.begin / kTileWidth;
  const int64_t columns = (x.end - 1 + kPixels - 1) / kTileWidth + 1 - first;
  const int64_t tiles = columns * divide_up(y.end - y.begin, kTileHeight);
  for (int64_t tile = blockIdx.x % blocks; tile < tiles; tile += blocks) {
    const int64_t tile_x = (first + tile % columns) * kTileWidth;
    const int64_t tile_y = y.begin + tile / columns * kTileHeight;
    const Range tile_columns{max(x.begin, tile_x - (kPixels - 1)), min(x.end, tile_x + kTileWidth)};
    const Range tile_rows{tile_y, min(y.end, tile_y + kTileHeight)};
    const Range patch_columns = across.tapped(tile_columns);
    const Range patch_rows = down.tapped(tile_rows);
    const int64_t pitch = patch_columns.end - patch_columns.begin;
    const bool fits = pitch * (patch_rows.end - patch_rows.begin) <= kPatch;
    if (fits) fill_patch(soft, patch_rows, patch_columns, patch);
    __syncthreads();

    const int64_t row = tile_y + threadIdx.x / kTileWords;
    if (row < tile_rows.end) {
      const int64_t offset = (n * down.image_size + row) * across.image_size;
      // Shifted so that every word is aligned in memory, wherever its row starts.
      const int64_t start = tile_x + threadIdx.x % kTileWords * kPixels - offset % kPixels;
      const auto patch_value = [&](int64_t i, int64_t j) {
        return patch[(i - patch_rows.begin) * pitch + j - patch_columns.begin];
      };
      const auto computed_value = [&](int64_t i, int64_t j) {
        return soft.contains(i, j) ? sigmoid(soft.dot(i, j, 0, 1)) : 0.0f;
      };
      const unsigned bits = fits ? threshold_word(patch_value, down, across, row, start, tile_columns, threshold)
                                 : threshold_word(computed_value, down, across, row, start, tile_columns, threshold);
      store_word(bits, start, across.image_size, masks + offset);
    }
    __syncthreads();
  }
}

Tensor assemble_masks_cuda(const Tensor& prototypes, const Tensor& coefficients, const Tensor& boxes, int64_t height,
                           int64_t width, double threshold) {
  const AssembleSizes sizes = check_assemble_masks(prototypes, coefficients, boxes, height, width);
  STD_TORCH_CHECK(threshold >= 0.0, "assemble_masks: threshold must not be negative, got ", threshold);
  const DeviceScope device(prototypes);
  const Tensor grid = torch::stable::contiguous(prototypes);
  const Tensor factors = torch::stable::contiguous(coefficients);
  const Tensor corners = torch::stable::contiguous(boxes);
  Tensor masks =
      torch::stable::new_empty(prototypes, assemble_shape(prototypes, sizes, height, width), ScalarType::Bool);
  const int64_t count = sizes.images * sizes.detections;
  bool* out = static_cast<bool*>(masks.mutable_data_ptr());
  dispatch_floating("assemble_masks", grid.scalar_type(), [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    if (count == 0) return;
    STD_CUDA_CHECK(cudaMemsetAsync(out, 0, static_cast<size_t>(count * height * width), device.stream()));
    const int64_t tiles = divide_up(width + kPixels - 1, kTileWidth) * divide_up(height, kTileHeight);
    const int64_t blocks = std::min(tiles, divide_up(kBlocks, count));
    assemble<T><<<grid_size("assemble_masks", count * blocks), kThreads, 0, device.stream()>>>(
        static_cast<const T*>(grid.const_data_ptr()), static_cast<const T*>(factors.const_data_ptr()),
        static_cast<const float*>(corners.const_data_ptr()), sizes.detections, sizes.prototypes,
        Axis(height, sizes.mask_height), Axis(width, sizes.mask_width), static_cast<float>(threshold), blocks, out);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return masks;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(yolact, CUDA, m) { m.impl("assemble_masks", TORCH_BOX(&assemble_masks_cuda)); }

}  // namespace yolact
