#include <yolact/coco.h>

#include <algorithm>
#include <cstring>

#include "json.h"

namespace yolact {
namespace {

// The positions where the mask changes from outside to inside or back, counted in column order, ascending.
std::vector<std::int64_t> changes(std::span<const std::uint8_t> mask, std::int64_t height, std::int64_t width) {
  std::vector<std::int64_t> positions;
  const auto inside = [&](std::int64_t y, std::int64_t x) { return mask[y * width + x] != 0; };
  for (std::int64_t x = 0; x < width; ++x) {
    if (inside(0, x) != (x > 0 && inside(height - 1, x - 1))) positions.push_back(x * height);
  }
  // By rows, as the mask lies in memory: most rows equal the row above and are skipped.
  for (std::int64_t y = 1; y < height; ++y) {
    if (std::memcmp(&mask[y * width], &mask[(y - 1) * width], static_cast<std::size_t>(width)) == 0) continue;
    for (std::int64_t x = 0; x < width; ++x) {
      if (inside(y, x) != inside(y - 1, x)) positions.push_back(x * height + y);
    }
  }
  std::sort(positions.begin(), positions.end());
  return positions;
}

// COCO's text of a number: each character holds five bits, the lowest first; its sixth bit says that more follow.
void append_number(std::string& text, std::int64_t number) {
  bool more = true;
  while (more) {
    std::int64_t bits = number & 0x1f;
    number >>= 5;
    more = bits & 0x10 ? number != -1 : number != 0;
    text += static_cast<char>((more ? bits | 0x20 : bits) + 48);
  }
}

// The entries of one image, separated by commas. `counts` gives the text of the run lengths of an object.
template <class Counts>
std::string entries(std::string_view image, std::int64_t image_id, const Objects& objects,
                    const std::vector<std::string>& class_names, const Counts& counts) {
  std::string text;
  for (std::size_t i = 0; i < objects.size(); ++i) {
    const Box& box = objects.boxes[i];
    const std::int64_t label = objects.labels[i];
    // Python subtracts in double precision too.
    const double x1 = box.x1, y1 = box.y1, x2 = box.x2, y2 = box.y2;
    text += i == 0 ? "" : ", ";
    text += "{\"image\": " + json_text(image) +
            ", \"category_name\": " + json_text(class_names.at(static_cast<std::size_t>(label))) +
            ", \"image_id\": " + std::to_string(image_id) + ", \"category_id\": " + std::to_string(label + 1) +
            ", \"bbox\": [" + json_number(x1) + ", " + json_number(y1) + ", " + json_number(x2 - x1) + ", " +
            json_number(y2 - y1) + "], \"score\": " + json_number(objects.mask_score(i)) +
            ", \"box_score\": " + json_number(objects.scores[i]) + ", \"segmentation\": {\"size\": [" +
            std::to_string(objects.height) + ", " + std::to_string(objects.width) +
            "], \"counts\": " + json_text(counts(i)) + "}}";
  }
  return text;
}

}  // namespace

std::vector<std::int64_t> run_lengths(std::span<const std::uint8_t> mask, std::int64_t height, std::int64_t width) {
  std::vector<std::int64_t> runs;
  std::int64_t last = 0;
  for (const std::int64_t position : changes(mask, height, width)) {
    runs.push_back(position - last);
    last = position;
  }
  runs.push_back(height * width - last);
  return runs;
}

std::string encode_runs(std::span<const std::int64_t> runs) {
  std::string text;
  for (std::size_t i = 0; i < runs.size(); ++i) append_number(text, i > 2 ? runs[i] - runs[i - 2] : runs[i]);
  return text;
}

std::string encode_mask(std::span<const std::uint8_t> mask, std::int64_t height, std::int64_t width) {
  return encode_runs(run_lengths(mask, height, width));
}

void CocoResults::add(std::string_view image, std::int64_t image_id, const Detections& detections,
                      const std::vector<std::string>& class_names) {
  append(entries(image, image_id, detections, class_names,
                 [&](std::size_t i) { return encode_mask(detections.mask(i), detections.height, detections.width); }));
}

void CocoResults::add(std::string_view image, std::int64_t image_id, const EncodedDetections& detections,
                      const std::vector<std::string>& class_names) {
  append(entries(image, image_id, detections, class_names,
                 [&](std::size_t i) { return encode_runs(detections.runs(i)); }));
}

// All at once, so that there is no half entry if the memory ends.
void CocoResults::append(const std::string& entries) {
  if (!entries.empty()) entries_ += entries_.empty() ? entries : ", " + entries;
}

std::string CocoResults::json() const { return "[" + entries_ + "]"; }

}  // namespace yolact
