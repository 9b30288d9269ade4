#include "direct_convolution.h"

#include <algorithm>
#include <type_traits>

namespace yolact {
namespace {

constexpr int64_t kPixels = 56;  // of the result in a block

// Writes a row for each of the pixels [first, last) of the result: the pixels of the input under the kernel, 0 outside
// the image. Rows are `pitch` apart.
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
    std::fill_n(out + k * k * channels, kTogether<Factor> - 1, zero);  // completes the last pair
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

// `T` is the type in memory, `Factor` the type that is multiplied.
template <class Factor, class T>
void multiply_rows(const Kernels& kernels, const T* input, const Factor* panels, const ConvolutionSizes& sizes,
                   const Epilogue<T>& epilogue) {
  const Multiply<Factor> multiply = std::get<Multiply<Factor>>(kernels.multiply);
  const int64_t step = kernels.rows;
  const int64_t count = sizes.kernel_size * sizes.kernel_size * sizes.channels;
  const int64_t length = divide_up(count, kTogether<Factor>) * kTogether<Factor>, pitch = length + kGap;
  const int64_t pixels = sizes.images * sizes.rows * sizes.columns;
  // The input may hold the rows as they are needed. Some pitches would bring all of them into the same few cache sets.
  const bool in_place = std::is_same_v<T, Factor> && length == sizes.channels && sizes.kernel_size == 1 &&
                        sizes.stride == 1 && sizes.padding == 0 && length * sizeof(Factor) % 2048 != 0;
  struct Scratch {
    std::unique_ptr<Factor[]> rows;
    std::unique_ptr<float[]> sums;
  };
  const auto make_scratch = [&] {
    // The last `step` rows of a block may reach beyond its last pixel.
    return Scratch{uninitialized<Factor>((kPixels + step) * pitch), uninitialized<float>(step * kPanel)};
  };
  for_each_block(divide_up(pixels, kPixels), divide_up(sizes.outputs, kPanel), make_scratch,
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
        multiply(rows + (pixel - first) * between, between, length, panels + panel * length * kPanel, sums);
        epilogue.write(pixel, std::min(step, last - pixel), panel, sums);
      }
    }
  });
}

}  // namespace

template <class T>
void convolve_directly(const Kernels& kernels, const T* input, const Tensor& packed, const ConvolutionSizes& sizes,
                       const Epilogue<T>& epilogue) {
  if constexpr (std::is_same_v<T, c10::BFloat16>) {
    if (packed.scalar_type() == ScalarType::BFloat16) {
      return multiply_rows(kernels, input, packed.const_data_ptr<c10::BFloat16>(), sizes, epilogue);
    }
  }
  multiply_rows(kernels, input, packed.const_data_ptr<float>(), sizes, epilogue);
}

template void convolve_directly(const Kernels&, const float*, const Tensor&, const ConvolutionSizes&,
                                const Epilogue<float>&);
template void convolve_directly(const Kernels&, const c10::BFloat16*, const Tensor&, const ConvolutionSizes&,
                                const Epilogue<c10::BFloat16>&);

}  // namespace yolact
