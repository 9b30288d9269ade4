// What the direct and the Winograd convolution share: both cut their work into blocks of pixels and panels of output
// channels, and both end with bias, residual and activation.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <tuple>
#include <vector>

#include "../arithmetic.h"
#include "kernels.h"
#include "parallel.h"

namespace yolact {

// Space between rows of scratch memory. Without it the addresses of several rows would share a cache set.
constexpr int64_t kGap = 16;

// What follows the products. `write` turns their sums into results, and stores these channels-last.
template <class T>
class Epilogue {
 public:
  // `bias` has `channels` values. `residual` may be null; it is like `out`.
  Epilogue(const Kernels& kernels, const float* bias, const T* residual, float slope, int64_t channels, T* out)
      : finish_(std::get<Finish<T>>(kernels.finish)),
        bias_(bias, bias + channels),
        residual_(residual),
        slope_(slope),
        channels_(channels),
        out_(out) {
    bias_.resize(divide_up(channels, kPanel) * kPanel);  // the kernel reads whole panels
  }

  // Writes the channels of a panel, of `count` neighbouring pixels.
  void write(int64_t pixel, int64_t count, int64_t panel, const float* sums) const {
    const int64_t first = panel * kPanel, at = pixel * channels_ + first, wide = std::min(kPanel, channels_ - first);
    const float* bias = bias_.data() + first;
    const T* residual = residual_ ? residual_ + at : nullptr;
    if (wide == kPanel) return finish_(sums, count, bias, residual, slope_, channels_, out_ + at);
    // The last panel is not full, and the kernel writes whole ones.
    for (int64_t i = 0; i < count; ++i) {
      T added[kPanel] = {}, values[kPanel];
      if (residual) std::copy_n(residual + i * channels_, wide, added);
      finish_(sums + i * kPanel, 1, bias, residual ? added : nullptr, slope_, kPanel, values);
      std::copy_n(values, wide, out_ + at + i * channels_);
    }
  }

 private:
  Finish<T> finish_;
  std::vector<float> bias_;
  const T* residual_;
  float slope_;
  int64_t channels_;
  T* out_;
};

// Calls body(block, first panel, last panel, scratch) until all panels of all blocks are done. Blocks are split by
// panels where there are too few of them for all threads. Each thread makes itself a scratch.
template <class Scratch, class Body>
void for_each_block(int64_t blocks, int64_t panels, const Scratch& make_scratch, const Body& body) {
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t splits = std::clamp<int64_t>(divide_up(3 * threads, std::max<int64_t>(blocks, 1)), 1, panels);
  in_turns(blocks * splits, make_scratch, [&](int64_t item, auto& scratch) {
    const int64_t part = item % splits;
    body(item / splits, part * panels / splits, (part + 1) * panels / splits, scratch);
  });
}

template <class T>
std::unique_ptr<T[]> uninitialized(int64_t count) {
  return std::make_unique_for_overwrite<T[]>(static_cast<size_t>(count));
}

}  // namespace yolact
