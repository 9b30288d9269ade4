#include "../assemble_masks.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "common.cuh"

namespace yolact {
namespace {

constexpr int kPixels = 16;  // that one store writes: a word
constexpr int kTileWords = 8;
constexpr int kTileWidth = kTileWords * kPixels;
constexpr int kTileHeight = 32;
constexpr int kThreads = kTileWords * kTileHeight;
// Room for the mask pixels of a tile, which is enough unless the image is smaller than the mask. A tile reaches up to
// kPixels − 1 pixels further to the left where the rows of the image are not aligned to words.
constexpr int kPatch = (kTileWidth + kPixels + 1) * (kTileHeight + 2);
constexpr int kDotLanes = 8;  // that share a dot product: together they load 32 bytes of float32
constexpr int64_t kBlocks = 4096;  // enough to fill any GPU several times over

// How an axis of the image samples that axis of the mask.
struct Axis {
  int64_t image_size, mask_size;
  float scale;

  Axis(int64_t image, int64_t mask)
      : image_size(image), mask_size(mask), scale(static_cast<float>(mask) / static_cast<float>(image)) {}

  __device__ Sample sample(int64_t pixel) const { return bilinear_sample(pixel, scale, mask_size); }

  __device__ int64_t next(int64_t index) const { return index + 1 < mask_size ? index + 1 : index; }

  // The first pixel that samples mask pixel `index` or one after it.
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

  // The mask pixels that `pixels` blend in. The range is not empty.
  __device__ Range tapped(Range pixels) const {
    return {sample(pixels.begin).index, next(sample(pixels.end - 1).index) + 1};
  }
};

// The mask of one detection at the resolution of the prototypes. It is 0 outside rows × columns.
template <class T>
struct SoftMask {
  const T* prototypes;
  const T* coefficients;
  int64_t channels, width;
  Range rows, columns;

  __device__ bool contains(int64_t row, int64_t column) const {
    return rows.begin <= row && row < rows.end && columns.begin <= column && column < columns.end;
  }

  // The sum of the terms first, first + step, … of coefficients · prototypes.
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

// Writes the soft mask of rows × columns to `patch`, row by row. The whole block calls this.
template <class T>
__device__ void fill_patch(const SoftMask<T>& soft, Range rows, Range columns, float* patch) {
  constexpr int values = kThreads / kDotLanes;
  const int pitch = static_cast<int>(columns.end - columns.begin);
  const int count = static_cast<int>(rows.end - rows.begin) * pitch;
  const int lane = threadIdx.x % kDotLanes;
  // Every lane of a warp runs every turn of the loop, because the shuffles need all lanes.
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

// The pixels that blend in a mask pixel of `inside`. Those that sample just before it blend in its first one.
__device__ Range pixels_of(const Axis& axis, Range inside) {
  if (inside.begin == inside.end) return {0, 0};
  const Range pixels{axis.first_pixel(inside.begin - 1), axis.first_pixel(inside.end)};
  return pixels.begin == pixels.end ? Range{0, 0} : pixels;
}

// Bit i says whether pixel start + i of row y is in `x` and above the threshold. `value(row, column)` is the soft mask.
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

// Spreads the four lowest bits to one byte each.
__device__ unsigned spread(unsigned bits) { return (bits & 0xfu) * 0x00204081u & 0x01010101u; }

// Sets pixel start + i of a row for every bit i of `bits`. The row is all false before; row[pixel] is a pixel of it.
__device__ void store_word(unsigned bits, int64_t start, Range pixels, bool* row) {
  if (bits == 0) return;
  if (start >= pixels.begin && start + kPixels <= pixels.end) {
    *reinterpret_cast<uint4*>(row + start) =
        make_uint4(spread(bits), spread(bits >> 4), spread(bits >> 8), spread(bits >> 12));
    return;
  }
  // Bytes of the word outside `pixels` belong to a neighbouring row, which another thread writes.
  for (int i = 0; i < kPixels; ++i) {
    if (bits >> i & 1u) row[start + i] = true;
  }
}

// Each detection has `blocks` blocks, which share the tiles of its box. `masks` is all false before. It has a plane of
// the image's size for each detection or, with `offsets`, a crop of that plane, which begins at the detection's offset.
template <class T>
__global__ void __launch_bounds__(kThreads)
    assemble(const T* prototypes, const T* coefficients, const float* boxes, int64_t detections, int64_t channels,
             Axis down, Axis across, float threshold, int64_t blocks, const int64_t* offsets, bool* masks) {
  const int64_t n = blockIdx.x / blocks;
  const float* box = boxes + 4 * n;
  const SoftMask<T> soft{prototypes + n / detections * down.mask_size * across.mask_size * channels,
                         coefficients + n * channels,
                         channels,
                         across.mask_size,
                         crop_range(box[1], box[3], down.mask_size, 1),
                         crop_range(box[0], box[2], across.mask_size, 1)};
  __shared__ Range reach[2];
  if (threadIdx.x < 2) reach[threadIdx.x] = threadIdx.x ? pixels_of(down, soft.rows) : pixels_of(across, soft.columns);
  __syncthreads();
  const Range x = reach[0];
  const Range y = reach[1];
  if (x.begin == x.end || y.begin == y.end) return;
  const Range stored = offsets ? x : Range{0, across.image_size};  // of each row
  const int64_t pitch_of_rows = stored.end - stored.begin;
  // Where pixel 0 of row 0 would be.
  const int64_t origin = offsets ? offsets[n] - y.begin * pitch_of_rows - x.begin : n * down.image_size * pitch_of_rows;

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
      const int64_t offset = origin + row * pitch_of_rows;
      // The shift aligns every word in memory, wherever its row starts. An offset may be negative.
      const int64_t start = tile_x + threadIdx.x % kTileWords * kPixels - (offset & (kPixels - 1));
      const auto patch_value = [&](int64_t i, int64_t j) {
        return patch[(i - patch_rows.begin) * pitch + j - patch_columns.begin];
      };
      const auto computed_value = [&](int64_t i, int64_t j) {
        return soft.contains(i, j) ? sigmoid(soft.dot(i, j, 0, 1)) : 0.0f;
      };
      const unsigned bits = fits ? threshold_word(patch_value, down, across, row, start, tile_columns, threshold)
                                 : threshold_word(computed_value, down, across, row, start, tile_columns, threshold);
      store_word(bits, start, stored, masks + offset);
    }
    __syncthreads();
  }
}

// Writes the crop of each detection as x1, y1, x2, y2.
__global__ void find_crops(const float* boxes, int64_t count, Axis down, Axis across, int64_t* crops) {
  const int64_t n = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x;
  if (n >= count) return;
  const float* box = boxes + 4 * n;
  Range x = pixels_of(across, crop_range(box[0], box[2], across.mask_size, 1));
  Range y = pixels_of(down, crop_range(box[1], box[3], down.mask_size, 1));
  if (x.begin == x.end || y.begin == y.end) x = y = {0, 0};
  crops[4 * n] = x.begin;
  crops[4 * n + 1] = y.begin;
  crops[4 * n + 2] = x.end;
  crops[4 * n + 3] = y.end;
}

// A crop as a part of its image, for walking down the columns.
struct Columns {
  const bool* pixels;
  Range x, y;
  int64_t height;  // of the image

  // The pixel before the first of a column is the last of the column to its left.
  __device__ bool inside(int64_t column, int64_t row) const {
    if (row < 0) {
      --column;
      row += height;
    }
    if (column < x.begin || column >= x.end || row < y.begin || row >= y.end) return false;
    return pixels[(row - y.begin) * (x.end - x.begin) + column - x.begin];
  }

  // Calls turn(row) for every row whose pixel differs from the pixel before it.
  template <class Turn>
  __device__ void for_turns(int64_t column, const Turn& turn) const {
    if (y.begin > 0 && inside(column, 0) != inside(column, -1)) turn(0);
    bool last = inside(column, y.begin - 1);
    for (int64_t row = y.begin; row < min(y.end + 1, height); ++row) {
      const bool now = inside(column, row);
      if (now != last) turn(row);
      last = now;
    }
  }
};

// Each block takes one detection. Without `offsets` it writes to `counts` how many runs the detection has. With them it
// writes the runs to `counts`; `ends` holds where they end meanwhile.
__global__ void __launch_bounds__(kThreads)
    find_runs(const bool* pixels, const int64_t* crops, const int64_t* crop_offsets, int64_t height, int64_t width,
              const int64_t* offsets, int64_t* ends, int64_t* counts) {
  const int64_t n = blockIdx.x;
  const int64_t* crop = crops + 4 * n;
  const Columns columns{pixels + crop_offsets[n], {crop[0], crop[2]}, {crop[1], crop[3]}, height};
  // If the crop ends with the last row of the image, the column right of it may have a turn.
  const int64_t end = columns.x.begin == columns.x.end ? 0 : min(columns.x.end + 1, width);
  __shared__ int64_t sums[kThreads];
  int64_t earlier = 0;  // turns in the columns of earlier rounds of the loop
  for (int64_t base = columns.x.begin; base < end; base += kThreads) {
    const int64_t column = base + threadIdx.x;
    int64_t own = 0;
    if (column < end) columns.for_turns(column, [&](int64_t) { ++own; });
    sums[threadIdx.x] = own;
    __syncthreads();
    for (int step = 1; step < kThreads; step *= 2) {
      const int64_t others = threadIdx.x >= step ? sums[threadIdx.x - step] : 0;
      __syncthreads();
      sums[threadIdx.x] += others;
      __syncthreads();
    }
    if (offsets && column < end) {
      int64_t* next = ends + offsets[n] + earlier + sums[threadIdx.x] - own;
      columns.for_turns(column, [&](int64_t row) { *next++ = column * height + row; });
    }
    earlier += sums[kThreads - 1];
    __syncthreads();
  }
  if (!offsets) {
    if (threadIdx.x == 0) counts[n] = earlier + 1;
    return;
  }
  ends += offsets[n];
  counts += offsets[n];
  if (threadIdx.x == 0) ends[earlier] = height * width;
  __syncthreads();
  for (int64_t i = threadIdx.x; i <= earlier; i += kThreads) counts[i] = ends[i] - (i > 0 ? ends[i - 1] : 0);
}

// What the three operators of this file share.
class Assembly {
 public:
  Assembly(const char* op, const Tensor& prototypes, const Tensor& coefficients, const Tensor& boxes, int64_t height,
           int64_t width, double threshold)
      : sizes(check_assembly(op, prototypes, coefficients, boxes, height, width, threshold)),
        count(sizes.images * sizes.detections),
        down(height, sizes.mask_height),
        across(width, sizes.mask_width),
        op_(op),
        device_(prototypes),
        grid_(torch::stable::contiguous(prototypes)),
        factors_(torch::stable::contiguous(coefficients)),
        corners_(torch::stable::contiguous(boxes)),
        threshold_(static_cast<float>(threshold)) {}

  const AssembleSizes sizes;
  const int64_t count;  // of detections, over all images
  const Axis down, across;

  cudaStream_t stream() const { return device_.stream(); }
  const float* boxes() const { return corners_.const_data_ptr<float>(); }

  // Writes all masks: see the kernel.
  void run(const int64_t* offsets, const Tensor& masks) const {
    bool* out = masks.mutable_data_ptr<bool>();
    dispatch_floating(op_, "prototypes", grid_.scalar_type(), [&](auto* type) {
      using T = std::remove_pointer_t<decltype(type)>;
      if (count == 0) return;
      STD_CUDA_CHECK(cudaMemsetAsync(out, 0, static_cast<size_t>(masks.numel()), stream()));
      const int64_t tiles =
          divide_up(across.image_size + kPixels - 1, kTileWidth) * divide_up(down.image_size, kTileHeight);
      const int64_t blocks = std::min(tiles, divide_up(kBlocks, count));
      assemble<T><<<grid_size(op_, count * blocks), kThreads, 0, stream()>>>(grid_.const_data_ptr<T>(),
                                                                             factors_.const_data_ptr<T>(), boxes(),
                                                                             sizes.detections, sizes.prototypes, down,
                                                                             across, threshold_, blocks, offsets, out);
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    });
  }

  // The offsets of all detections in an output, and its size. `size_of` gets the numbers of `values`, and the detection
  // whose size it returns. This waits for the device, because the host must know how large the output is.
  template <class SizeOf>
  std::pair<Tensor, int64_t> offsets_of(const Tensor& values, const SizeOf& size_of) const {
    std::vector<int64_t> numbers(values.numel()), offsets(count + 1);
    STD_CUDA_CHECK(cudaMemcpyAsync(numbers.data(), values.const_data_ptr(), numbers.size() * sizeof(int64_t),
                                   cudaMemcpyDeviceToHost, stream()));
    STD_CUDA_CHECK(cudaStreamSynchronize(stream()));
    for (int64_t n = 0; n < count; ++n) offsets[n + 1] = offsets[n] + size_of(numbers.data(), n);
    Tensor result = torch::stable::new_empty(values, {count + 1}, ScalarType::Long);
    STD_CUDA_CHECK(cudaMemcpyAsync(result.mutable_data_ptr(), offsets.data(), offsets.size() * sizeof(int64_t),
                                   cudaMemcpyHostToDevice, stream()));
    STD_CUDA_CHECK(cudaStreamSynchronize(stream()));  // `offsets` must live until it is copied
    return {result, offsets[count]};
  }

  // The pixels, crops and offsets of `assemble_crops`.
  std::tuple<Tensor, Tensor, Tensor> crops(const std::vector<int64_t>& shape) const {
    Tensor crops = torch::stable::new_empty(corners_, shape, ScalarType::Long);
    if (count > 0) {
      find_crops<<<grid_size(op_, divide_up(count, kThreads)), kThreads, 0, stream()>>>(
          boxes(), count, down, across, crops.mutable_data_ptr<int64_t>());
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    }
    const auto [offsets, total] = offsets_of(crops, [](const int64_t* sides, int64_t n) {
      return (sides[4 * n + 2] - sides[4 * n]) * (sides[4 * n + 3] - sides[4 * n + 1]);
    });
    const Tensor pixels = torch::stable::new_empty(corners_, {total}, ScalarType::Bool);
    run(offsets.const_data_ptr<int64_t>(), pixels);
    return {pixels, crops, offsets};
  }

 private:
  const char* op_;
  const DeviceScope device_;
  const Tensor grid_, factors_, corners_;
  const float threshold_;
};

Tensor assemble_masks_cuda(const Tensor& prototypes, const Tensor& coefficients, const Tensor& boxes, int64_t height,
                           int64_t width, double threshold) {
  const Assembly assembly("assemble_masks", prototypes, coefficients, boxes, height, width, threshold);
  const Tensor masks =
      torch::stable::new_empty(prototypes, masks_shape(prototypes, assembly.sizes, height, width), ScalarType::Bool);
  assembly.run(nullptr, masks);
  return masks;
}

std::tuple<Tensor, Tensor, Tensor> assemble_crops_cuda(const Tensor& prototypes, const Tensor& coefficients,
                                                       const Tensor& boxes, int64_t height, int64_t width,
                                                       double threshold) {
  const Assembly assembly("assemble_crops", prototypes, coefficients, boxes, height, width, threshold);
  return assembly.crops(crops_shape(prototypes, assembly.sizes));
}

std::tuple<Tensor, Tensor> assemble_runs_cuda(const Tensor& prototypes, const Tensor& coefficients, const Tensor& boxes,
                                              int64_t height, int64_t width, double threshold) {
  const Assembly assembly("assemble_runs", prototypes, coefficients, boxes, height, width, threshold);
  const auto [pixels, crops, crop_offsets] = assembly.crops(crops_shape(prototypes, assembly.sizes));
  const auto find = [&, &pixels = pixels, &crops = crops,
                     &crop_offsets = crop_offsets](const int64_t* offsets, int64_t* ends, int64_t* counts) {
    if (assembly.count == 0) return;
    find_runs<<<grid_size("assemble_runs", assembly.count), kThreads, 0, assembly.stream()>>>(
        pixels.const_data_ptr<bool>(), crops.const_data_ptr<int64_t>(), crop_offsets.const_data_ptr<int64_t>(), height,
        width, offsets, ends, counts);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  };
  const Tensor runs = torch::stable::new_empty(crops, {assembly.count}, ScalarType::Long);
  find(nullptr, nullptr, runs.mutable_data_ptr<int64_t>());
  const auto [offsets, total] = assembly.offsets_of(runs, [](const int64_t* sizes, int64_t n) { return sizes[n]; });
  const Tensor ends = torch::stable::new_empty(crops, {total}, ScalarType::Long);
  const Tensor counts = torch::stable::new_empty(crops, {total}, ScalarType::Long);
  find(offsets.const_data_ptr<int64_t>(), ends.mutable_data_ptr<int64_t>(), counts.mutable_data_ptr<int64_t>());
  return {counts, offsets};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(yolact, CUDA, m) {
  m.impl("assemble_masks", TORCH_BOX(&assemble_masks_cuda));
  m.impl("assemble_crops", TORCH_BOX(&assemble_crops_cuda));
  m.impl("assemble_runs", TORCH_BOX(&assemble_runs_cuda));
}

}  // namespace yolact
