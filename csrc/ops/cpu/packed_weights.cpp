#include "packed_weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "../arithmetic.h"
#include "winograd.h"

namespace yolact {
namespace {

constexpr int64_t kMostIntegers = 1 << 17;  // with as many channels a sum of integers could overflow

// The place in a panel of value k of an output channel; `lane` is the channel's number in the panel.
int64_t place_of(int64_t k, int64_t lane, int64_t together) {
  return (k / together * kPanel + lane) * together + k % together;
}

// Packs one output channel: `taps` values of each input channel become rows of all input channels, tap after tap.
template <class Value>
void pack_channel(const float* weights, int64_t channels, int64_t taps, int64_t lane, Value* panel) {
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t tap = 0; tap < taps; ++tap) {
      panel[place_of(tap * channels + c, lane, kTogether<Value>)] = static_cast<Value>(weights[c * taps + tap]);
    }
  }
}

// Packs one output channel for Winograd's convolution in float32.
void pack_transformed(const float* weights, int64_t channels, int64_t lane, float* panel) {
  for (int64_t c = 0; c < channels; ++c) {
    transform_kernel(weights + 9 * c, channels * kPanel, panel + c * kPanel + lane);
  }
}

// Packs one output channel for Winograd's convolution in integers. Each of its 36 transformed values has a scale of its
// own, chosen so that no sum over the input channels needs more than 32 bits.
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
    const float most = static_cast<float>(std::numeric_limits<int32_t>::max());
    const double room = most / kLargestInteger - static_cast<double>(channels);
    const float scale = static_cast<float>(std::max(sum / room, largest / std::numeric_limits<int16_t>::max()));
    if (std::isnormal(scale)) {
      for (int64_t c = 0; c < channels; ++c) {
        panel[place_of(c, lane, kTogether<int16_t>)] = static_cast<int16_t>(std::nearbyint(values[c] / scale));
      }
    }
    std::memcpy(panel + channels * kPanel + 2 * lane, &scale, sizeof(scale));
  }
}

}  // namespace

PackedLayout::PackedLayout(const Kernels& kernels, const Tensor& weight, int64_t stride) {
  const int64_t panels = divide_up(weight.size(0), kPanel);
  const int64_t channels = weight.size(1), kernel_size = weight.size(2), length = kernel_size * kernel_size * channels;
  const bool halves = weight.scalar_type() == ScalarType::BFloat16;
  if (kernel_size == 3 && stride == 1 && channels % 16 == 0) {
    if (halves && kernels.multiply_integers != nullptr && channels < kMostIntegers) {
      dtype = ScalarType::Short;
      shape = {panels, kTaps, channels / 2 + 1, 2 * kPanel};
    } else {
      shape = {panels, kTaps, channels, kPanel};
    }
  } else if (halves && std::get<Multiply<c10::BFloat16>>(kernels.multiply) != nullptr) {
    dtype = ScalarType::BFloat16;
    shape = {panels, 1, divide_up(length, 2), 2 * kPanel};
  } else {
    shape = {panels, 1, length, kPanel};
  }
}

bool PackedLayout::describes(const Tensor& packed) const {
  bool fits = packed.dim() == 4 && packed.scalar_type() == dtype && packed.is_contiguous();
  for (int64_t dim = 0; fits && dim < 4; ++dim) fits = packed.size(dim) == shape[dim];
  return fits;
}

Tensor pack_weights(const Tensor& weight, const PackedLayout& layout) {
  const int64_t outputs = weight.size(0), channels = weight.size(1), taps = weight.size(2) * weight.size(2);
  const Tensor source = torch::stable::contiguous(torch::stable::to(weight, ScalarType::Float));
  Tensor packed = torch::stable::new_zeros(source, layout.shape, layout.dtype);
  const float* values = source.const_data_ptr<float>();
  void* panels = packed.mutable_data_ptr();
  torch::stable::parallel_for(0, layout.shape[0], 1, [&](int64_t begin, int64_t end) {
    for (int64_t output = begin * kPanel; output < std::min(end * kPanel, outputs); ++output) {
      const float* weights = values + output * channels * taps;
      const int64_t lane = output % kPanel, start = output / kPanel * layout.panel_size();
      if (layout.dtype == ScalarType::Short) {
        pack_integers(weights, channels, lane, static_cast<int16_t*>(panels) + start);
      } else if (layout.dtype == ScalarType::BFloat16) {
        pack_channel(weights, channels, taps, lane, static_cast<c10::BFloat16*>(panels) + start);
      } else if (layout.winograd()) {
        pack_transformed(weights, channels, lane, static_cast<float*>(panels) + start);
      } else {
        pack_channel(weights, channels, taps, lane, static_cast<float*>(panels) + start);
      }
    }
  });
  return packed;
}

}  // namespace yolact
