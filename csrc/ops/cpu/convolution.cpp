#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <type_traits>
#include <vector>

#include "../convolution.h"

// Products may be fused with the sums they go to: no other device computes the same, which torch's convolution does not
// promise either.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("fp-contract=fast")
#endif

#include "kernels.h"
#include "parallel.h"

namespace yolact {
namespace {

constexpr int64_t kPixels = 56;  // of the result, that a direct convolution computes together
constexpr int64_t kTiles = 28;   // likewise of a Winograd convolution
constexpr int64_t kMostIntegers = 1 << 17;  // channels, for which a sum has room enough
constexpr int64_t kGap = 16;     // between rows, whose addresses would share cache sets without it

int64_t divided_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Where the results of one call go, channels-last.
template <class T>
struct Result {
  std::vector<float> bias;  // of whole panels
  const T* residual;        // may be null
  float slope;
  int64_t channels;
  T* out;

  // The channels of a panel, of `count` neighbouring pixels.
  void set(int64_t pixel, int64_t count, int64_t panel, const float* sums) const {
    const int64_t first = panel * kPanel, at = pixel * channels + first, wide = std::min(kPanel, channels - first);
    const T* added = residual ? residual + at : nullptr;
    if (wide == kPanel) return finish(sums, count, bias.data() + first, added, channels, out + at);
    for (int64_t i = 0; i < count; ++i) {
      T some[kPanel] = {}, values[kPanel];
      if (added) std::copy_n(added + i * channels, wide, some);
      finish(sums + i * kPanel, 1, bias.data() + first, added ? some : nullptr, kPanel, values);
      std::copy_n(values, wide, out + at + i * channels);
    }
  }

 private:
  void finish(const float* sums, int64_t count, const float* offsets, const T* added, int64_t pitch, T* values) const {
    if constexpr (std::is_same_v<T, float>) {
      kernels()->finish_float(sums, count, offsets, added, slope, pitch, values);
    } else {
      kernels()->finish_bfloat16(sums, count, offsets, added, slope, pitch, values);
    }
  }
};

// Work on `blocks` of pixels with `panels` of channels, split so that every thread has some: body(block, first panel,
// last panel, scratch), where a scratch is made for each thread.
template <class Scratch, class Body>
void in_parallel(int64_t blocks, int64_t panels, const Scratch& make_scratch, const Body& body) {
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t splits = std::clamp<int64_t>(divided_up(3 * threads, std::max<int64_t>(blocks, 1)), 1, panels);
  in_turns(blocks * splits, make_scratch, [&](int64_t item, auto& scratch) {
    const int64_t part = item % splits;
    body(item / splits, part * panels / splits, (part + 1) * panels / splits, scratch);
  });
}

// Memory that nobody needs filled.
template <class T>
std::unique_ptr<T[]> uninitialised(int64_t count) {
  return std::make_unique_for_overwrite<T[]>(static_cast<size_t>(count));
}

// How many values of a type are multiplied and added at once.
template <class Factor>
constexpr int64_t kTogether = 4 / sizeof(Factor);

// The factors of a convolution: see `Packing`.
template <class Factor>
struct Panels {
  const Factor* values;

  void multiply(int64_t panel, const Factor* rows, int64_t pitch, int64_t length, float* sums) const {
    const Factor* factors = values + panel * length * kPanel;
    if constexpr (std::is_same_v<Factor, float>) kernels()->multiply(rows, pitch, length, factors, sums);
#ifdef YOLACT_X86
    if constexpr (!std::is_same_v<Factor, float>) avx512::multiply_pairs(rows, pitch, length, factors, sums);
#endif
  }
};

template <>
struct Panels<int16_t> {
  const int16_t* values;

  void multiply(int64_t panel, const int16_t* rows, int64_t pitch, int64_t length, const float* row_scales,
                float* sums) const {
#ifdef YOLACT_X86
    const int16_t* factors = values + panel * (length + 2) * kPanel;
    avx512::multiply_pairs(rows, pitch, length, factors, sums);
    avx512::scale_sums(row_scales, reinterpret_cast<const float*>(factors + length * kPanel), sums);
#endif
  }
};

// The pixels under the kernel at each of the pixels [first, last) of the result, one row each; 0 outside the image.
template <class T, class Factor>
void gather_rows(const T* input, const ConvolutionSizes& sizes, int64_t first, int64_t last, int64_t pitch,
                 Factor* out) {
  const Factor zero(0);
  const int64_t k = sizes.kernel_size, channels = sizes.channels;
  for (int64_t pixel = first; pixel < last; ++pixel, out += pitch) {
    const int64_t column = pixel % sizes.columns * sizes.stride - sizes.padding;
    const int64_t line = pixel / sizes.columns;
    const int64_t row = line % sizes.rows * sizes.stride - sizes.padding;
    const T* image = input + line / sizes.rows * sizes.height * sizes.width * channels;
    const int64_t begin = std::max<int64_t>(-column, 0), end = std::min(sizes.width - column, k);
    std::fill_n(out + k * k * channels, kTogether<Factor> - 1, zero);  // whose factors are 0
    for (int64_t i = 0; i < k; ++i) {
      Factor* target = out + i * k * channels;
      if (row + i < 0 || row + i >= sizes.height || begin >= end) {
        std::fill_n(target, k * channels, zero);
        continue;
      }
      const T* source = image + ((row + i) * sizes.width + column + begin) * channels;
      std::copy_n(source, (end - begin) * channels, target + begin * channels);
      if (begin > 0) std::fill_n(target, begin * channels, zero);
      if (end < k) std::fill_n(target + end * channels, (k - end) * channels, zero);
    }
  }
}

// `T` is what lies in memory, `Factor` what is multiplied.
template <class T, class Factor>
void convolve_directly(const T* input, const Panels<Factor>& panels, const ConvolutionSizes& sizes,
                       const Result<T>& result) {
  const int64_t step = kernels()->rows;
  const int64_t count = sizes.kernel_size * sizes.kernel_size * sizes.channels;
  const int64_t length = divided_up(count, kTogether<Factor>) * kTogether<Factor>, pitch = length + kGap;
  const int64_t pixels = sizes.images * sizes.rows * sizes.columns;
  // The rows may lie in the input as they are wanted. Some pitches would bring them into the same few cache sets.
  const bool in_place = std::is_same_v<T, Factor> && length == sizes.channels && sizes.kernel_size == 1 &&
                        sizes.stride == 1 && sizes.padding == 0 && length * sizeof(Factor) % 2048 != 0;
  struct Scratch {
    std::unique_ptr<Factor[]> rows;
    std::unique_ptr<float[]> sums;
  };
  const auto make_scratch = [&] {
    return Scratch{uninitialised<Factor>((kPixels + step) * pitch), uninitialised<float>(step * kPanel)};
  };
  in_parallel(divided_up(pixels, kPixels), divided_up(sizes.outputs, kPanel), make_scratch,
              [&](int64_t block, int64_t first_panel, int64_t last_panel, Scratch& scratch) {
    const int64_t first = block * kPixels, last = std::min(first + kPixels, pixels);
    float* sums = scratch.sums.get();
    const Factor* rows = scratch.rows.get();
    int64_t between = pitch;
    if (in_place && (last - first) % step == 0) {
      rows = reinterpret_cast<const Factor*>(input) + first * length;
      between = length;
    } else {
      gather_rows(input, sizes, first, last, pitch, scratch.rows.get());
    }
    for (int64_t panel = first_panel; panel < last_panel; ++panel) {
      for (int64_t pixel = first; pixel < last; pixel += step) {
        panels.multiply(panel, rows + (pixel - first) * between, between, length, sums);
        result.set(pixel, std::min(step, last - pixel), panel, sums);
      }
    }
  });
}

// Winograd's F(4×4, 3×3) (Lavin and Gray, arXiv:1509.09308): 36 products where a direct convolution has 144. They need
// more than the 8 bits of a bfloat16: either floats, or integers of 16 bits with scales, of which two products are added
// at once.
template <class Factor, class T>
void convolve_tiles(const T* input, const Panels<Factor>& panels, const ConvolutionSizes& sizes,
                    const Result<T>& result) {
  constexpr bool kIntegers = std::is_same_v<Factor, int16_t>;
  const Kernels& inner = *kernels();
  const int64_t channels = sizes.channels, pitch = channels + kGap;
  const int64_t tile_rows = divided_up(sizes.rows, 4), tile_columns = divided_up(sizes.columns, 4);
  const int64_t tiles = sizes.images * tile_rows * tile_columns;
  const std::vector<T> zeros(channels);
  struct Scratch {
    std::unique_ptr<Factor[]> transformed;
    std::unique_ptr<float[]> products, pixels, values, scales;
  };
  const auto make_scratch = [&] {
    const int64_t rows = kTiles + inner.rows;
    return Scratch{uninitialised<Factor>(kTaps * rows * pitch), uninitialised<float>(kTaps * rows * kPanel),
                   uninitialised<float>(16 * kPanel), uninitialised<float>(kTaps * channels),
                   uninitialised<float>(kTaps * rows)};
  };
  in_parallel(divided_up(tiles, kTiles), divided_up(sizes.outputs, kPanel), make_scratch,
              [&](int64_t block, int64_t first_panel, int64_t last_panel, Scratch& scratch) {
    const int64_t first = block * kTiles, last = std::min(first + kTiles, tiles);
    const int64_t rows = divided_up(last - first, inner.rows) * inner.rows;
    Factor* transformed = scratch.transformed.get();
    float* scales = scratch.scales.get();
    float* products = scratch.products.get();
    float* pixels = scratch.pixels.get();
    for (int64_t tile = first; tile < last; ++tile) {
      const int64_t line = tile / tile_columns;
      const int64_t row = line % tile_rows * 4 - sizes.padding, column = tile % tile_columns * 4 - sizes.padding;
      const T* image = input + line / tile_rows * sizes.height * sizes.width * channels;
      const T* seen[kTaps];
      for (int64_t i = 0; i < kTaps; ++i) {
        const int64_t y = row + i / 6, x = column + i % 6;
        const bool inside = y >= 0 && y < sizes.height && x >= 0 && x < sizes.width;
        seen[i] = inside ? image + (y * sizes.width + x) * channels : zeros.data();
      }
      Factor* target = transformed + (tile - first) * pitch;
      if constexpr (kIntegers) {
#ifdef YOLACT_X86
        avx512::transform_to_integers(seen, channels, rows * pitch, rows, scratch.values.get(), target,
                                      scales + tile - first);
#endif
      } else if constexpr (std::is_same_v<T, float>) {
        inner.transform_float(seen, channels, rows * pitch, target);
      } else {
        inner.transform_bfloat16(seen, channels, rows * pitch, target);
      }
    }
    for (int64_t panel = first_panel; panel < last_panel; ++panel) {
      for (int64_t tap = 0; tap < kTaps; ++tap) {
        for (int64_t m = 0; m < rows; m += inner.rows) {
          const int64_t first_row = tap * rows + m, factors = panel * kTaps + tap;
          const Factor* left = transformed + first_row * pitch;
          float* sums = products + first_row * kPanel;
          if constexpr (kIntegers) panels.multiply(factors, left, pitch, channels, scales + first_row, sums);
          else panels.multiply(factors, left, pitch, channels, sums);
        }
      }
      for (int64_t tile = first; tile < last; ++tile) {
        inner.transform_output(products + (tile - first) * kPanel, rows * kPanel, pixels);
        const int64_t line = tile / tile_columns;
        const int64_t row = line % tile_rows * 4, column = tile % tile_columns * 4;
        for (int64_t i = 0; i < std::min<int64_t>(4, sizes.rows - row); ++i) {
          const int64_t pixel = ((line / tile_rows * sizes.rows) + row + i) * sizes.columns + column;
          result.set(pixel, std::min<int64_t>(4, sizes.columns - column), panel, pixels + 4 * i * kPanel);
        }
      }
    }
  });
}

// One axis of G g Gᵀ.
void transform_three(const double* g, int64_t step, double* out, int64_t out_step) {
  const double sum = g[0] + g[2 * step], wide_sum = g[0] + 4.0 * g[2 * step];
  out[0] = g[0] / 4.0;
  out[out_step] = -(sum + g[step]) / 6.0;
  out[2 * out_step] = -(sum - g[step]) / 6.0;
  out[3 * out_step] = (wide_sum + 2.0 * g[step]) / 24.0;
  out[4 * out_step] = (wide_sum - 2.0 * g[step]) / 24.0;
  out[5 * out_step] = g[2 * step];
}

// G g Gᵀ of a 3 × 3 kernel g, its 36 values `plane` apart.
void transform_kernel(const float* kernel, int64_t plane, float* out) {
  double g[9], half[18], whole[kTaps];
  std::copy_n(kernel, 9, g);
  for (int64_t j = 0; j < 3; ++j) transform_three(g + j, 3, half + j, 3);
  for (int64_t i = 0; i < 6; ++i) transform_three(half + 3 * i, 1, whole + 6 * i, 1);
  for (int64_t tap = 0; tap < kTaps; ++tap) out[tap * plane] = static_cast<float>(whole[tap]);
}

// The layout of packed weights, by what the CPU multiplies:
// - [panels, taps, length, kPanel] float32, where a direct convolution has one tap of K²·C values;
// - [panels, 1, length / 2, 2·kPanel] bfloat16, with pairs of values side by side, the last filled up with zeros;
// - [panels, taps, length / 2 + 1, 2·kPanel] int16, with pairs likewise, and after them a float32 scale of each channel.
struct Packing {
  std::vector<int64_t> shape;
  ScalarType dtype = ScalarType::Float;

  Packing(const Tensor& weight, int64_t stride) {
    const int64_t panels = divided_up(weight.size(0), kPanel);
    const int64_t channels = weight.size(1), kernel_size = weight.size(2), length = kernel_size * kernel_size * channels;
    const bool halves = weight.scalar_type() == ScalarType::BFloat16;
    if (kernel_size == 3 && stride == 1 && channels % 16 == 0) {
      if (halves && multiplies_integers() && channels < kMostIntegers) {
        dtype = ScalarType::Short;
        shape = {panels, kTaps, channels / 2 + 1, 2 * kPanel};
      } else {
        shape = {panels, kTaps, channels, kPanel};
      }
    } else if (halves && multiplies_pairs()) {
      dtype = ScalarType::BFloat16;
      shape = {panels, 1, divided_up(length, 2), 2 * kPanel};
    } else {
      shape = {panels, 1, length, kPanel};
    }
  }

  bool tiles() const { return shape[1] == kTaps; }
  int64_t panel_size() const { return shape[1] * shape[2] * shape[3]; }
};

// Where value k of a lane lies in a panel, where `together` of them lie side by side.
int64_t place_of(int64_t k, int64_t lane, int64_t together) {
  return (k / together * kPanel + lane) * together + k % together;
}

// One output channel, of `taps` values of each input channel.
template <class Value>
void pack_channel(const float* weights, int64_t channels, int64_t taps, int64_t lane, Value* panel) {
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t tap = 0; tap < taps; ++tap) {
      panel[place_of(tap * channels + c, lane, kTogether<Value>)] = static_cast<Value>(weights[c * taps + tap]);
    }
  }
}

// Each value of a transformed kernel has a scale of its own, with which no sum of products needs more than 32 bits.
void pack_integers(const float* weights, int64_t channels, int64_t lane, int16_t* panel) {
  std::vector<float> transformed(kTaps * channels);
  for (int64_t c = 0; c < channels; ++c) transform_kernel(weights + 9 * c, channels, transformed.data() + c);
  for (int64_t tap = 0; tap < kTaps; ++tap, panel += (channels + 2) * kPanel) {
    const float* values = transformed.data() + tap * channels;
    double sum = 0.0, largest = 0.0;
    for (int64_t c = 0; c < channels; ++c) {
      const double size = std::abs(static_cast<double>(values[c]));
      sum += size;
      largest = std::max(largest, size);
    }
    const double room = std::numeric_limits<int32_t>::max() / kLargestInteger - static_cast<double>(channels);
    const float scale = static_cast<float>(std::max(sum / room, largest / std::numeric_limits<int16_t>::max()));
    if (std::isnormal(scale)) {
      for (int64_t c = 0; c < channels; ++c) {
        panel[place_of(c, lane, kTogether<int16_t>)] = static_cast<int16_t>(std::nearbyint(values[c] / scale));
      }
    }
    std::memcpy(panel + channels * kPanel + 2 * lane, &scale, sizeof(scale));
  }
}

Tensor pack_convolution_cpu(const Tensor& weight, int64_t stride) {
  STD_TORCH_CHECK(weight.dim() == 4 && weight.size(2) == weight.size(3),
                  "pack_convolution: weight must be [O, C, K, K], got ", shape_of(weight));
  STD_TORCH_CHECK(stride > 0, "pack_convolution: stride must be positive, got ", stride);
  if (kernels() == nullptr) return torch::stable::new_empty(weight, {0});
  const int64_t outputs = weight.size(0), channels = weight.size(1), taps = weight.size(2) * weight.size(2);
  const Packing packing(weight, stride);
  const Tensor values = torch::stable::contiguous(torch::stable::to(weight, ScalarType::Float));
  Tensor packed = torch::stable::new_zeros(values, packing.shape, packing.dtype);
  const float* from = static_cast<const float*>(values.const_data_ptr());
  void* to = packed.mutable_data_ptr();
  torch::stable::parallel_for(0, packing.shape[0], 1, [&](int64_t begin, int64_t end) {
    for (int64_t output = begin * kPanel; output < std::min(end * kPanel, outputs); ++output) {
      const float* weights = from + output * channels * taps;
      const int64_t lane = output % kPanel, start = output / kPanel * packing.panel_size();
      if (packing.dtype == ScalarType::BFloat16) {
        pack_channel(weights, channels, taps, lane, static_cast<c10::BFloat16*>(to) + start);
      } else if (packing.dtype == ScalarType::Short) {
        pack_integers(weights, channels, lane, static_cast<int16_t*>(to) + start);
      } else if (packing.tiles()) {
        for (int64_t c = 0; c < channels; ++c) {
          float* target = static_cast<float*>(to) + start + c * kPanel + lane;
          transform_kernel(weights + c * taps, channels * kPanel, target);
        }
      } else {
        pack_channel(weights, channels, taps, lane, static_cast<float*>(to) + start);
      }
    }
  });
  return packed;
}

// `result` = activated(`result` + bias + residual), for what torch computed.
template <class T>
void finish_in_place(const float* bias, const T* residual, float slope, int64_t pixels, int64_t channels, T* result) {
  torch::stable::parallel_for(0, pixels, 64, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * channels; i < end * channels; ++i) {
      const float sum = static_cast<float>(result[i]) + bias[i % channels];
      result[i] = static_cast<T>(activated(residual ? sum + static_cast<float>(residual[i]) : sum, slope));
    }
  });
}

template <class T>
void convolve(const T* input, const Tensor& packed, const float* bias, const T* residual, float slope,
              const ConvolutionSizes& sizes, T* out) {
  Result<T> result{std::vector<float>(bias, bias + sizes.outputs), residual, slope, sizes.outputs, out};
  result.bias.resize(divided_up(sizes.outputs, kPanel) * kPanel);
  const void* values = packed.const_data_ptr();
  if constexpr (std::is_same_v<T, c10::BFloat16>) {
    if (packed.scalar_type() == ScalarType::BFloat16) {
      return convolve_directly(input, Panels<T>{static_cast<const T*>(values)}, sizes, result);
    }
    if (packed.scalar_type() == ScalarType::Short) {
      return convolve_tiles(input, Panels<int16_t>{static_cast<const int16_t*>(values)}, sizes, result);
    }
  }
  const Panels<float> panels{static_cast<const float*>(values)};
  if (packed.size(1) == kTaps) return convolve_tiles(input, panels, sizes, result);
  convolve_directly(input, panels, sizes, result);
}

void check_packed(const Tensor& packed, const Tensor& weight, int64_t stride) {
  const Packing packing(weight, stride);
  bool fits = kernels() && packed.dim() == 4 && packed.scalar_type() == packing.dtype && packed.is_contiguous();
  for (int64_t dim = 0; fits && dim < 4; ++dim) fits = packed.size(dim) == packing.shape[dim];
  STD_TORCH_CHECK(fits, "convolution: packed must be what pack_convolution makes on this machine of the weight ",
                  shape_of(weight), " with stride ", stride, ", got ", shape_of(packed));
}

Tensor convolution_cpu(const Tensor& input, const Tensor& weight, const Tensor& packed, const Tensor& bias,
                       const std::optional<Tensor>& residual, int64_t stride, int64_t padding, double negative_slope) {
  const ConvolutionSizes sizes = check_convolution(input, weight, bias, residual, stride, padding);
  const bool fast = packed.numel() > 0 && input.scalar_type() != ScalarType::Half;
  if (fast) check_packed(packed, weight, stride);
  const Tensor source = channels_last(input), biases = torch::stable::contiguous(bias);
  const Tensor added = residual ? channels_last(*residual) : Tensor();
  Tensor out = fast ? torch::stable::empty(std::vector<int64_t>{sizes.images, sizes.outputs, sizes.rows, sizes.columns},
                                           input.scalar_type(), std::nullopt, input.device(), std::nullopt,
                                           torch::headeronly::MemoryFormat::ChannelsLast)
                    : torch_convolution(source, weight, stride, padding);
  const float* offsets = static_cast<const float*>(biases.const_data_ptr());
  const float slope = static_cast<float>(negative_slope);
  dispatch_floating("convolution", input.scalar_type(), [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const T* plus = residual ? static_cast<const T*>(added.const_data_ptr()) : nullptr;
    T* to = static_cast<T*>(out.mutable_data_ptr());
    if constexpr (!std::is_same_v<T, c10::Half>) {
      if (fast) {
        const T* from = static_cast<const T*>(source.const_data_ptr());
        return convolve(from, packed, offsets, plus, slope, sizes, to);
      }
    }
    finish_in_place(offsets, plus, slope, sizes.images * sizes.rows * sizes.columns, sizes.outputs, to);
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(yolact, CPU, m) {
  m.impl("pack_convolution", TORCH_BOX(&pack_convolution_cpu));
  m.impl("convolution", TORCH_BOX(&convolution_cpu));
}

}  // namespace yolact
