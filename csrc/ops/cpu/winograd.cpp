#include "winograd.h"

#include <algorithm>
#include <type_traits>

namespace yolact {
namespace {

constexpr int64_t kTiles = 28;  // in a block

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

// The tiles that cover the results of a batch. Those at the right and lower edge may reach beyond it.
struct TileGrid {
  int64_t images, rows, columns;

  explicit TileGrid(const ConvolutionSizes& sizes)
      : images(sizes.images), rows(divide_up(sizes.rows, 4)), columns(divide_up(sizes.columns, 4)) {}

  int64_t count() const { return images * rows * columns; }

  // The first result of a tile.
  struct Place {
    int64_t image, row, column;
  };
  Place place(int64_t tile) const {
    const int64_t line = tile / columns;
    return {line / rows, line % rows * 4, tile % columns * 4};
  }
};

// The memory that a thread needs for a block. Each of the 36 values of a tile is in a plane of its own, with a row for
// each tile of the block.
//
// The factors need more than the 8 bits of a bfloat16: they are float32, or 16-bit integers with scales, of which the
// processor multiplies and adds two at once.
template <class Factor>
struct Scratch {
  std::unique_ptr<Factor[]> transformed;  // [kTaps, rows, channels]
  std::unique_ptr<float[]> products;      // [kTaps, rows, kPanel]
  std::unique_ptr<float[]> pixels;        // [16, kPanel], the results of one tile
  std::unique_ptr<float[]> values;        // of integers: [kTaps, channels], one tile before it is rounded
  std::unique_ptr<float[]> scales;        // of integers: [kTaps, rows]

  Scratch(int64_t rows, int64_t pitch, int64_t channels)
      : transformed(uninitialized<Factor>(kTaps * rows * pitch)),
        products(uninitialized<float>(kTaps * rows * kPanel)),
        pixels(uninitialized<float>(16 * kPanel)),
        values(uninitialized<float>(kTaps * channels)),
        scales(uninitialized<float>(kTaps * rows)) {}
};

template <class Factor, class T>
class Winograd {
 public:
  Winograd(const Kernels& kernels, const T* input, const Factor* panels, const ConvolutionSizes& sizes,
           const Epilogue<T>& epilogue)
      : kernels_(kernels),
        input_(input),
        panels_(panels),
        sizes_(sizes),
        epilogue_(epilogue),
        grid_(sizes),
        pitch_(sizes.channels + kGap),
        zeros_(sizes.channels) {}

  void run() const {
    const auto make_scratch = [&] { return Scratch<Factor>(kTiles + kernels_.rows, pitch_, sizes_.channels); };
    for_each_block(divide_up(grid_.count(), kTiles), divide_up(sizes_.outputs, kPanel), make_scratch,
                   [&](int64_t block, int64_t first_panel, int64_t last_panel, Scratch<Factor>& scratch) {
      const int64_t first = block * kTiles, last = std::min(first + kTiles, grid_.count());
      const int64_t rows = divide_up(last - first, kernels_.rows) * kernels_.rows;
      for (int64_t tile = first; tile < last; ++tile) transform_input(tile, tile - first, rows, scratch);
      for (int64_t panel = first_panel; panel < last_panel; ++panel) {
        for (int64_t tap = 0; tap < kTaps; ++tap) multiply(panel, tap, rows, scratch);
        for (int64_t tile = first; tile < last; ++tile) write_results(tile, tile - first, panel, rows, scratch);
      }
    });
  }

 private:
  static constexpr bool kIntegers = std::is_same_v<Factor, int16_t>;

  // Bᵀ d B of one tile.
  void transform_input(int64_t tile, int64_t row_of_block, int64_t rows, Scratch<Factor>& scratch) const {
    const auto [number, first_row, first_column] = grid_.place(tile);
    const T* image = input_ + number * sizes_.height * sizes_.width * sizes_.channels;
    const T* pixels[kTaps];
    for (int64_t i = 0; i < kTaps; ++i) {
      const int64_t y = first_row - sizes_.padding + i / 6, x = first_column - sizes_.padding + i % 6;
      const bool inside = y >= 0 && y < sizes_.height && x >= 0 && x < sizes_.width;
      pixels[i] = inside ? image + (y * sizes_.width + x) * sizes_.channels : zeros_.data();
    }
    Factor* out = scratch.transformed.get() + row_of_block * pitch_;
    if constexpr (kIntegers) {
      kernels_.transform_to_integers(pixels, sizes_.channels, rows * pitch_, rows, scratch.values.get(), out,
                                     scratch.scales.get() + row_of_block);
    } else {
      std::get<TransformInput<T>>(kernels_.transform_input)(pixels, sizes_.channels, rows * pitch_, out);
    }
  }

  // The products of one of the 36 values, of all tiles of a block with a panel.
  void multiply(int64_t panel, int64_t tap, int64_t rows, Scratch<Factor>& scratch) const {
    const int64_t length = sizes_.channels + (kIntegers ? 2 : 0);  // with the scales
    const Factor* factors = panels_ + (panel * kTaps + tap) * length * kPanel;
    for (int64_t row = tap * rows; row < (tap + 1) * rows; row += kernels_.rows) {
      const Factor* transformed = scratch.transformed.get() + row * pitch_;
      float* sums = scratch.products.get() + row * kPanel;
      if constexpr (kIntegers) {
        kernels_.multiply_integers(transformed, pitch_, sizes_.channels, factors, scratch.scales.get() + row, sums);
      } else {
        std::get<Multiply<Factor>>(kernels_.multiply)(transformed, pitch_, sizes_.channels, factors, sums);
      }
    }
  }

  // Aᵀ m A of one tile, and what follows it.
  void write_results(int64_t tile, int64_t row_of_block, int64_t panel, int64_t rows, Scratch<Factor>& scratch) const {
    float* pixels = scratch.pixels.get();
    kernels_.transform_output(scratch.products.get() + row_of_block * kPanel, rows * kPanel, pixels);
    const auto [image, row, column] = grid_.place(tile);
    const int64_t height = std::min<int64_t>(4, sizes_.rows - row);
    const int64_t width = std::min<int64_t>(4, sizes_.columns - column);
    for (int64_t i = 0; i < height; ++i) {
      const int64_t pixel = (image * sizes_.rows + row + i) * sizes_.columns + column;
      epilogue_.write(pixel, width, panel, pixels + 4 * i * kPanel);
    }
  }

  const Kernels& kernels_;
  const T* input_;
  const Factor* panels_;
  const ConvolutionSizes& sizes_;
  const Epilogue<T>& epilogue_;
  const TileGrid grid_;
  const int64_t pitch_;         // between the rows of transformed tiles
  const std::vector<T> zeros_;  // a pixel outside the image
};

}  // namespace

void transform_kernel(const float* kernel, int64_t plane, float* out) {
  double g[9], half[18], whole[kTaps];
  std::copy_n(kernel, 9, g);
  for (int64_t j = 0; j < 3; ++j) transform_three(g + j, 3, half + j, 3);
  for (int64_t i = 0; i < 6; ++i) transform_three(half + 3 * i, 1, whole + 6 * i, 1);
  for (int64_t tap = 0; tap < kTaps; ++tap) out[tap * plane] = static_cast<float>(whole[tap]);
}

template <class T>
void convolve_tiles(const Kernels& kernels, const T* input, const Tensor& packed, const ConvolutionSizes& sizes,
                    const Epilogue<T>& epilogue) {
  if constexpr (std::is_same_v<T, c10::BFloat16>) {
    if (packed.scalar_type() == ScalarType::Short) {
      return Winograd(kernels, input, packed.const_data_ptr<int16_t>(), sizes, epilogue).run();
    }
  }
  Winograd(kernels, input, packed.const_data_ptr<float>(), sizes, epilogue).run();
}

template void convolve_tiles(const Kernels&, const float*, const Tensor&, const ConvolutionSizes&,
                             const Epilogue<float>&);
template void convolve_tiles(const Kernels&, const c10::BFloat16*, const Tensor&, const ConvolutionSizes&,
                             const Epilogue<c10::BFloat16>&);

}  // namespace yolact
