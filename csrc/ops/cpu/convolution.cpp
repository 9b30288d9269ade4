#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string_view>
#include <type_traits>
#include <vector>

#include "../convolution.h"
#include "simd.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define YOLACT_X86
#include <immintrin.h>
#endif

// Products may be fused with the sums they go to: no other device computes the same, which torch's convolution does not
// promise either.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("fp-contract=fast")
#endif

namespace yolact {
namespace {

constexpr int64_t kPanel = 32;   // output channels that are computed together
constexpr int64_t kPixels = 56;  // of the result, that a direct convolution computes together
constexpr int64_t kTiles = 28;   // likewise of a Winograd convolution
constexpr int64_t kTaps = 36;    // of F(4×4, 3×3)
constexpr int64_t kGap = 16;     // between rows, whose addresses would share cache sets without it

// The inner loops for one instruction set: see multiply.inc.
struct Kernels {
  int64_t rows;
  void (*multiply)(const float* rows, int64_t pitch, int64_t length, const float* panel, float* sums);
  void (*transform_float)(const float* const* pixels, int64_t channels, int64_t plane, float* out);
  void (*transform_bfloat16)(const c10::BFloat16* const* pixels, int64_t channels, int64_t plane, float* out);
  void (*transform_output)(const float* products, int64_t plane, float* out);
  void (*finish_float)(const float* sums, int64_t pixels, const float* bias, const float* residual, float slope,
                       int64_t pitch, float* out);
  void (*finish_bfloat16)(const float* sums, int64_t pixels, const float* bias, const c10::BFloat16* residual,
                          float slope, int64_t pitch, c10::BFloat16* out);
};

#ifdef YOLACT_X86
namespace avx512 {
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4")
constexpr int kLanes = 16, kRows = 14;
#include "multiply.inc"
#pragma GCC pop_options

// As `multiply`, of bfloat16: panel[k / 2][n] holds the factors of two neighbouring k, and `length` is even.
__attribute__((target("arch=x86-64-v4,avx512bf16"))) void multiply_pairs(const c10::BFloat16* rows, int64_t pitch,
                                                                         int64_t length, const c10::BFloat16* panel,
                                                                         float* sums) {
  constexpr int kWidth = kPanel / kLanes;
  __m512 total[kRows][kWidth];
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 8
    for (int n = 0; n < kWidth; ++n) total[m][n] = _mm512_setzero_ps();
  }
  for (int64_t k = 0; k < length; k += 2, panel += 2 * kPanel) {
#pragma GCC unroll 16
    for (int m = 0; m < kRows; ++m) {
      int pair;
      std::memcpy(&pair, rows + m * pitch + k, sizeof(pair));
      const __m512bh values = reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
#pragma GCC unroll 8
      for (int n = 0; n < kWidth; ++n) {
        const __m512bh factors = reinterpret_cast<__m512bh>(_mm512_loadu_si512(panel + 2 * n * kLanes));
        total[m][n] = _mm512_dpbf16_ps(total[m][n], values, factors);
      }
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 8
    for (int n = 0; n < kWidth; ++n) _mm512_storeu_ps(sums + m * kPanel + n * kLanes, total[m][n]);
  }
}
}  // namespace avx512
namespace avx2 {
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v3")
constexpr int kLanes = 8, kRows = 3;
#include "multiply.inc"
#pragma GCC pop_options
}  // namespace avx2
#endif
namespace baseline {
constexpr int kLanes = 4, kRows = 1;
#include "multiply.inc"
}  // namespace baseline

// The best for this CPU; ATEN_CPU_CAPABILITY asks for less, of torch too.
const Kernels& kernels() {
#ifdef YOLACT_X86
  static const Kernels& best = []() -> const Kernels& {
    const char* capability = std::getenv("ATEN_CPU_CAPABILITY");
    const std::string_view most = capability ? capability : "";
    if (most == "default" || !__builtin_cpu_supports("x86-64-v3")) return baseline::kernels;
    return most == "avx2" || !__builtin_cpu_supports("x86-64-v4") ? avx2::kernels : avx512::kernels;
  }();
  return best;
#else
  return baseline::kernels;
#endif
}

// Whether the CPU multiplies bfloat16 by itself.
bool multiplies_pairs() {
#ifdef YOLACT_X86
  return &kernels() == &avx512::kernels && __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

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
      kernels().finish_float(sums, count, offsets, added, slope, pitch, values);
    } else {
      kernels().finish_bfloat16(sums, count, offsets, added, slope, pitch, values);
    }
  }
};

// Work on `blocks` of pixels with `panels` of channels, split so that every thread has some: body(block, first panel,
// last panel, scratch), where a scratch is made for each thread.
template <class Scratch, class Body>
void in_parallel(int64_t blocks, int64_t panels, const Scratch& make_scratch, const Body& body) {
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t splits = std::clamp<int64_t>(divided_up(3 * threads, std::max<int64_t>(blocks, 1)), 1, panels);
  // Threads take what is next: one that the system holds up does not keep the others waiting.
  std::atomic<int64_t> next = 0;
  torch::stable::parallel_for(0, std::min(threads, blocks * splits), 1, [&](int64_t, int64_t) {
    auto scratch = make_scratch();
    for (int64_t item = next++; item < blocks * splits; item = next++) {
      const int64_t part = item % splits;
      body(item / splits, part * panels / splits, (part + 1) * panels / splits, scratch);
    }
  });
}

// Memory that nobody needs filled.
template <class T>
std::unique_ptr<T[]> uninitialised(int64_t count) {
  return std::make_unique_for_overwrite<T[]>(static_cast<size_t>(count));
}

// How many products make a sum; pairs need an even number.
int64_t depth(int64_t count, bool pairs) { return pairs ? divided_up(count, 2) * 2 : count; }

// The pixels under the kernel at each of the pixels [first, last) of the result, one row each; zeros outside the image.
template <class T, class Factor>
void gather_rows(const T* input, const ConvolutionSizes& sizes, int64_t first, int64_t last, int64_t pitch,
                 Factor* out) {
  const int64_t k = sizes.kernel_size, channels = sizes.channels;
  for (int64_t pixel = first; pixel < last; ++pixel, out += pitch) {
    const int64_t column = pixel % sizes.columns * sizes.stride - sizes.padding;
    const int64_t line = pixel / sizes.columns;
    const int64_t row = line % sizes.rows * sizes.stride - sizes.padding;
    const T* image = input + line / sizes.rows * sizes.height * sizes.width * channels;
    const int64_t begin = std::max<int64_t>(-column, 0), end = std::min(sizes.width - column, k);
    out[k * k * channels] = Factor(0);  // the last pair's second value where their number is odd
    for (int64_t i = 0; i < k; ++i) {
      Factor* target = out + i * k * channels;
      if (row + i < 0 || row + i >= sizes.height || begin >= end) {
        std::fill_n(target, k * channels, Factor(0));
        continue;
      }
      const T* source = image + ((row + i) * sizes.width + column + begin) * channels;
      std::copy_n(source, (end - begin) * channels, target + begin * channels);
      if (begin > 0) std::fill_n(target, begin * channels, Factor(0));
      if (end < k) std::fill_n(target + end * channels, (k - end) * channels, Factor(0));
    }
  }
}

// `Factor` is float, or bfloat16 where the CPU multiplies that and T is it too.
template <class T, class Factor>
void convolve_directly(const T* input, const Factor* packed, const ConvolutionSizes& sizes, const Result<T>& result) {
  const Kernels& inner = kernels();
  constexpr bool pairs = std::is_same_v<Factor, c10::BFloat16>;
  const int64_t length = depth(sizes.kernel_size * sizes.kernel_size * sizes.channels, pairs), pitch = length + kGap;
  const int64_t pixels = sizes.images * sizes.rows * sizes.columns;
  // The rows may lie in the input as they are wanted. Some pitches would bring them into the same few cache sets.
  const bool in_place = std::is_same_v<T, Factor> && length == sizes.channels && sizes.kernel_size == 1 &&
                        sizes.stride == 1 && sizes.padding == 0 && length * sizeof(T) % 2048 != 0;
  struct Scratch {
    std::unique_ptr<Factor[]> rows;
    std::unique_ptr<float[]> sums;
  };
  const auto make_scratch = [&] {
    return Scratch{uninitialised<Factor>((kPixels + inner.rows) * pitch), uninitialised<float>(inner.rows * kPanel)};
  };
  in_parallel(divided_up(pixels, kPixels), divided_up(sizes.outputs, kPanel), make_scratch,
              [&](int64_t block, int64_t first_panel, int64_t last_panel, Scratch& scratch) {
    const int64_t first = block * kPixels, last = std::min(first + kPixels, pixels);
    float* sums = scratch.sums.get();
    const Factor* rows = scratch.rows.get();
    int64_t between = pitch;
    if (in_place && (last - first) % inner.rows == 0) {
      rows = reinterpret_cast<const Factor*>(input) + first * length;
      between = length;
    } else {
      gather_rows(input, sizes, first, last, pitch, scratch.rows.get());
    }
    for (int64_t panel = first_panel; panel < last_panel; ++panel) {
      for (int64_t pixel = first; pixel < last; pixel += inner.rows) {
        const Factor* row = rows + (pixel - first) * between;
        const Factor* factors = packed + panel * length * kPanel;
        if constexpr (!pairs) inner.multiply(row, between, length, factors, sums);
#ifdef YOLACT_X86
        if constexpr (pairs) avx512::multiply_pairs(row, between, length, factors, sums);
#endif
        result.set(pixel, std::min(inner.rows, last - pixel), panel, sums);
      }
    }
  });
}

// Winograd's F(4×4, 3×3) (Lavin and Gray, arXiv:1509.09308): 36 products where a direct convolution has 144.
template <class T>
void convolve_tiles(const T* input, const float* packed, const ConvolutionSizes& sizes, const Result<T>& result) {
  const Kernels& inner = kernels();
  const int64_t channels = sizes.channels, pitch = channels + kGap;
  const int64_t tile_rows = divided_up(sizes.rows, 4), tile_columns = divided_up(sizes.columns, 4);
  const int64_t tiles = sizes.images * tile_rows * tile_columns;
  const std::vector<T> zeros(channels);
  struct Scratch {
    std::unique_ptr<float[]> transformed, products, pixels;
  };
  const auto make_scratch = [&] {
    const int64_t rows = kTiles + inner.rows;
    return Scratch{uninitialised<float>(kTaps * rows * pitch), uninitialised<float>(kTaps * rows * kPanel),
                   uninitialised<float>(16 * kPanel)};
  };
  in_parallel(divided_up(tiles, kTiles), divided_up(sizes.outputs, kPanel), make_scratch,
              [&](int64_t block, int64_t first_panel, int64_t last_panel, Scratch& scratch) {
    const int64_t first = block * kTiles, last = std::min(first + kTiles, tiles);
    const int64_t rows = divided_up(last - first, inner.rows) * inner.rows;
    float* transformed = scratch.transformed.get();
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
      float* target = transformed + (tile - first) * pitch;
      if constexpr (std::is_same_v<T, float>) {
        inner.transform_float(seen, channels, rows * pitch, target);
      } else {
        inner.transform_bfloat16(seen, channels, rows * pitch, target);
      }
    }
    for (int64_t panel = first_panel; panel < last_panel; ++panel) {
      for (int64_t tap = 0; tap < kTaps; ++tap) {
        for (int64_t m = 0; m < rows; m += inner.rows) {
          inner.multiply(transformed + (tap * rows + m) * pitch, pitch, channels,
                         packed + (panel * kTaps + tap) * channels * kPanel,
                         products + (tap * rows + m) * kPanel);
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

// The layout of packed weights: [panels, taps, length, kPanel] float32, where a direct convolution has one tap of K²·C
// values; or [panels, 1, length / 2, 2·kPanel] bfloat16 where the CPU multiplies that, with pairs of values side by side.
struct Packing {
  std::vector<int64_t> shape;
  bool pairs;

  Packing(int64_t outputs, int64_t channels, int64_t kernel_size, int64_t stride, ScalarType dtype) {
    const int64_t panels = divided_up(outputs, kPanel);
    const bool tiles = kernel_size == 3 && stride == 1 && channels % 16 == 0;
    pairs = !tiles && dtype == ScalarType::BFloat16 && multiplies_pairs();
    const int64_t length = depth(kernel_size * kernel_size * channels, pairs);
    if (tiles) shape = {panels, kTaps, channels, kPanel};
    else if (pairs) shape = {panels, 1, length / 2, 2 * kPanel};
    else shape = {panels, 1, length, kPanel};
  }

  ScalarType dtype() const { return pairs ? ScalarType::BFloat16 : ScalarType::Float; }
};

Tensor pack_convolution_cpu(const Tensor& weight, int64_t stride, int64_t padding) {
  STD_TORCH_CHECK(weight.dim() == 4 && weight.size(2) == weight.size(3),
                  "pack_convolution: weight must be [O, C, K, K], got ", shape_of(weight));
  STD_TORCH_CHECK(stride > 0 && padding >= 0, "pack_convolution: stride must be positive and padding not negative, got ",
                  stride, " and ", padding);
  const int64_t outputs = weight.size(0), channels = weight.size(1), taps = weight.size(2) * weight.size(2);
  const Packing packing(outputs, channels, weight.size(2), stride, weight.scalar_type());
  const std::vector<int64_t>& shape = packing.shape;
  const Tensor values = torch::stable::contiguous(torch::stable::to(weight, ScalarType::Float));
  Tensor packed = torch::stable::new_zeros(values, shape, packing.dtype());
  const float* from = static_cast<const float*>(values.const_data_ptr());
  void* to = packed.mutable_data_ptr();
  const int64_t panel_size = shape[1] * shape[2] * shape[3];
  torch::stable::parallel_for(0, shape[0], 1, [&](int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel) {
      const int64_t first = panel * kPanel, lanes = std::min(kPanel, outputs - first);
      for (int64_t c = 0; c < channels; ++c) {
        for (int64_t lane = 0; lane < lanes; ++lane) {
          const float* kernel = from + ((first + lane) * channels + c) * taps;
          if (shape[1] == kTaps) {
            float* target = static_cast<float*>(to) + panel * panel_size + c * kPanel + lane;
            transform_kernel(kernel, channels * kPanel, target);
            continue;
          }
          for (int64_t tap = 0; tap < taps; ++tap) {
            const int64_t k = tap * channels + c;
            if (packing.pairs) {
              c10::BFloat16* target = static_cast<c10::BFloat16*>(to) + panel * panel_size;
              target[(k / 2 * kPanel + lane) * 2 + k % 2] = kernel[tap];
            } else {
              static_cast<float*>(to)[panel * panel_size + k * kPanel + lane] = kernel[tap];
            }
          }
        }
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
  if constexpr (std::is_same_v<T, c10::BFloat16>) {
    if (packed.scalar_type() == ScalarType::BFloat16) {
      return convolve_directly(input, static_cast<const T*>(packed.const_data_ptr()), sizes, result);
    }
  }
  const float* factors = static_cast<const float*>(packed.const_data_ptr());
  if (packed.size(1) == kTaps) return convolve_tiles(input, factors, sizes, result);
  convolve_directly(input, factors, sizes, result);
}

Tensor convolution_cpu(const Tensor& input, const Tensor& weight, const Tensor& packed, const Tensor& bias,
                       const std::optional<Tensor>& residual, int64_t stride, int64_t padding, double negative_slope) {
  const ConvolutionSizes sizes = check_convolution(input, weight, bias, residual, stride, padding);
  const bool fast = packed.numel() > 0 && input.scalar_type() != ScalarType::Half;
  if (fast) {
    const Packing packing(sizes.outputs, sizes.channels, sizes.kernel_size, stride, weight.scalar_type());
    bool fits = packed.dim() == 4 && packed.scalar_type() == packing.dtype() && packed.is_contiguous();
    for (int64_t dim = 0; fits && dim < 4; ++dim) fits = packed.size(dim) == packing.shape[dim];
    STD_TORCH_CHECK(fits, "convolution: packed must be what pack_convolution makes on this machine of the weight ",
                    shape_of(weight), " with stride ", stride, ", got ", shape_of(packed));
  }
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
        return convolve(static_cast<const T*>(source.const_data_ptr()), packed, offsets, plus, slope, sizes, to);
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
