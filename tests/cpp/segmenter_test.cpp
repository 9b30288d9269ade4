#include <yolact/coco.h>
#include <yolact/segmenter.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <thread>
#include <vector>

#include "check.h"

using yolact::ChannelOrder;
using yolact::ImageView;
using yolact::Segmenter;
using yolact::SegmenterOptions;

namespace {

constexpr std::int64_t height = 4, width = 6;

// Pixels that all have the given bytes. Rows are `stride` bytes apart.
std::vector<std::uint8_t> filled(const std::vector<std::uint8_t>& pixel, std::int64_t stride) {
  std::vector<std::uint8_t> data(static_cast<std::size_t>(height * stride), 77);
  for (std::int64_t y = 0; y < height; ++y) {
    for (std::int64_t x = 0; x < width; ++x) {
      std::copy(pixel.begin(), pixel.end(), data.begin() + y * stride + x * static_cast<std::int64_t>(pixel.size()));
    }
  }
  return data;
}

void test_properties(const std::filesystem::path& models) {
  Segmenter segmenter(models / "colors.pt");
  CHECK(segmenter.class_names() == std::vector<std::string>({"red", "green", "blue"}));
  CHECK(segmenter.preset() == "colors" && segmenter.image_size() == 32 && segmenter.model_version() == "9.8.7");
  CHECK(segmenter.score_threshold() == 0.05 && segmenter.iou_threshold() == 0.5 && segmenter.max_detections() == 100);
  segmenter.set_score_threshold(0.25);
  segmenter.set_iou_threshold(1.0);
  segmenter.set_max_detections(0);
  CHECK(segmenter.score_threshold() == 0.25 && segmenter.iou_threshold() == 1.0 && segmenter.max_detections() == 0);
  CHECK_ERROR(segmenter.set_score_threshold(std::nan("")), "score_threshold must be between 0 and 1");
  CHECK_ERROR(segmenter.set_score_threshold(1.5), "score_threshold must be between 0 and 1");
  CHECK_ERROR(segmenter.set_iou_threshold(-0.1), "iou_threshold must be between 0 and 1");
  CHECK_ERROR(segmenter.set_max_detections(-1), "max_detections must not be negative");
}

void test_channel_orders(const Segmenter& segmenter) {
  const struct {
    ChannelOrder order;
    std::vector<std::uint8_t> pixel;
    std::int64_t label;
  } cases[] = {{ChannelOrder::rgb, {200, 20, 10}, 0},
               {ChannelOrder::bgr, {200, 20, 10}, 2},
               {ChannelOrder::rgba, {10, 200, 20, 255}, 1},
               {ChannelOrder::bgra, {10, 20, 200, 255}, 0},
               {ChannelOrder::gray, {200}, 0}};
  for (const auto& [order, pixel, label] : cases) {
    for (const std::int64_t padding : {0, 5}) {
      const std::int64_t stride = width * yolact::channels(order) + padding;
      const auto data = filled(pixel, stride);
      const yolact::Detections found = segmenter.segment({data.data(), height, width, stride, order});
      CHECK(found.size() == (order == ChannelOrder::gray ? 3 : 2) && found.labels.at(0) == label);
      CHECK(std::abs(found.scores.at(0) - 200.0f / 255.0f) < 1e-6f);
      CHECK(found.boxes.at(0).x2 == width && found.boxes.at(0).y2 == height);
      CHECK(found.mask(0).size() == height * width);
      CHECK(std::ranges::all_of(found.mask(0), [](std::uint8_t inside) { return inside == 1; }));
    }
  }
}

void test_nothing_found(const Segmenter& segmenter) {
  const auto data = filled({0, 0, 0}, width * 3);
  const yolact::Detections found = segmenter.segment({data.data(), height, width, width * 3, ChannelOrder::rgb});
  CHECK(found.size() == 0 && found.boxes.empty() && found.scores.empty());
  CHECK(found.height == height && found.width == width);
}

// Checks that run lengths and crops describe the masks that `segment` returns.
void check_without_canvas(const Segmenter& segmenter, const ImageView& image) {
  const yolact::Detections found = segmenter.segment(image);
  const yolact::EncodedDetections encoded = segmenter.segment_encoded(image);
  const yolact::CroppedDetections cropped = segmenter.segment_cropped(image);
  for (const yolact::Objects* objects :
       {static_cast<const yolact::Objects*>(&encoded), static_cast<const yolact::Objects*>(&cropped)}) {
    CHECK(objects->height == image.height && objects->width == image.width);
    CHECK(objects->labels == found.labels && objects->scores == found.scores);
    CHECK(objects->mask_scores == found.mask_scores && objects->boxes.size() == found.size());
  }
  CHECK(encoded.offsets.size() == found.size() + 1 && cropped.offsets.size() == found.size() + 1);
  for (std::size_t i = 0; i < found.size(); ++i) {
    const auto mask = found.mask(i);
    CHECK(std::ranges::equal(encoded.runs(i), yolact::run_lengths(mask, image.height, image.width)));
    const auto& [x1, y1, x2, y2] = cropped.crops.at(i);
    const auto crop = cropped.crop(i);
    CHECK(static_cast<std::int64_t>(crop.size()) == (x2 - x1) * (y2 - y1));
    for (std::int64_t y = 0; y < image.height; ++y) {
      for (std::int64_t x = 0; x < image.width; ++x) {
        const bool within = x1 <= x && x < x2 && y1 <= y && y < y2;
        CHECK(mask[y * image.width + x] == (within ? crop[(y - y1) * (x2 - x1) + x - x1] : 0));
      }
    }
  }
}

void test_masks_in_three_forms(const Segmenter& segmenter) {
  auto data = filled({200, 0, 0}, width * 3);
  data[0] = data[3] = 0;  // the mask lacks a corner
  const ImageView view{data.data(), height, width, width * 3, ChannelOrder::rgb};
  check_without_canvas(segmenter, view);
  std::ranges::fill(data, 0);
  for (const std::size_t pixel : {8, 9, 14, 15, 16}) data[pixel * 3] = 255;
  for (const std::size_t pixel : {0, 5, 23}) data[pixel * 3 + 2] = 255;
  check_without_canvas(segmenter, view);
  const yolact::CroppedDetections cropped = segmenter.segment_cropped(view);
  CHECK(cropped.labels == std::vector<std::int64_t>({0, 2}));
  const auto& [x1, y1, x2, y2] = cropped.crops.at(0);
  CHECK(x1 == 2 && y1 == 1 && x2 == 5 && y2 == 3);
  std::ranges::fill(data, 0);
  CHECK(segmenter.segment_encoded(view).offsets == std::vector<std::int64_t>({0}));
  CHECK(segmenter.segment_cropped(view).offsets == std::vector<std::int64_t>({0}));
  std::ranges::fill(data, 100);  // objects whose masks are empty
  CHECK(segmenter.segment(view).size() == 3);
  check_without_canvas(segmenter, view);
}

// Fields are looked up by name, so their order does not matter.
void test_fields_are_found_by_name(const std::filesystem::path& models, const Segmenter& segmenter) {
  const Segmenter reversed(models / "reversed_fields.pt");
  const auto data = filled({200, 150, 10}, width * 3);
  const ImageView view{data.data(), height, width, width * 3, ChannelOrder::rgb};
  check_without_canvas(reversed, view);
  const yolact::Detections found = reversed.segment(view), expected = segmenter.segment(view);
  CHECK(found.size() == 2 && found.labels == expected.labels && found.scores == expected.scores);
  CHECK(found.mask_scores == expected.mask_scores && found.mask_scores.at(0) == found.scores.at(0) / 2);
  CHECK(found.boxes.at(1).x2 == width && found.boxes.at(1).y2 == height);
}

void test_batches_and_threads(const Segmenter& segmenter) {
  const auto red = filled({200, 0, 0}, width * 3), blue = filled({0, 0, 200}, width * 3);
  const std::vector<ImageView> views = {{red.data(), height, width, width * 3, ChannelOrder::rgb},
                                        {blue.data(), 1, 2, 6, ChannelOrder::rgb}};
  const auto both = segmenter.segment(views);
  CHECK(both.size() == 2 && both[0].labels.at(0) == 0 && both[1].labels.at(0) == 2);
  CHECK(both[1].height == 1 && both[1].width == 2 && both[1].mask(0).size() == 2);
  CHECK(segmenter.segment(std::vector<ImageView>()).empty());
  const auto encoded = segmenter.segment_encoded(views);
  CHECK(encoded.size() == 2 && encoded[1].labels == both[1].labels && encoded[1].counts.size() == 2);

  std::vector<std::int64_t> labels(8, -1);
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    threads.emplace_back([&, i] { labels[i] = segmenter.segment(views[i % 2]).labels.at(0); });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(labels == std::vector<std::int64_t>({0, 2, 0, 2, 0, 2, 0, 2}));
}

void test_errors(const std::filesystem::path& models, const Segmenter& segmenter) {
  CHECK_ERROR(Segmenter(models / "missing.pt"), "missing.pt: there is no such file");
  CHECK_ERROR(Segmenter(models), "this is not a regular file");
  CHECK_ERROR(Segmenter(models / "text.pt"), "this is not a model written by `yolact export`");
  CHECK_ERROR(Segmenter(models / "truncated.pt"), "this is not a model written by `yolact export`");
  CHECK_ERROR(Segmenter(models / "foreign.pt"), "this is a PyTorch file, but not a model written by `yolact export`");
  CHECK_ERROR(Segmenter(models / "newer.pt"),
              "written by yolact 9.8.7 in format " + std::to_string(YOLACT_FILE_FORMAT + 1) + ", but");
  CHECK_ERROR(Segmenter(models / "no_method.pt"), "the model cannot be loaded: it has no method forward_cropped");
  CHECK_ERROR(Segmenter(models / "no_field.pt"), "the results of its method forward_encoded have no field offsets");
  CHECK_ERROR(Segmenter(models / "colors.pt", "toaster"), "'toaster' is not a device: give cpu");
  CHECK_ERROR(Segmenter(models / "colors.pt", "meta"), "device meta is not supported: give cpu or cuda");
  CHECK_ERROR(Segmenter(models / "colors.pt", "cuda:99"), "cuda");
  SegmenterOptions options{.cuda_graph = true};
  CHECK_ERROR(Segmenter(models / "colors.pt", options), "CUDA graphs need a model on CUDA, this one is on cpu");
  options = {.precision = "int3"};
  CHECK_ERROR(Segmenter(models / "colors.pt", options), "precision must be one of fp32, bf16, fp16, got 'int3'");
  const std::uint8_t black[3] = {}, white[3] = {255, 255, 255};
  const ImageView view{black, 1, 1, 3, ChannelOrder::rgb}, bright{white, 1, 1, 3, ChannelOrder::rgb};
  CHECK_ERROR(Segmenter(models / "wrong_dtype.pt").segment(bright),
              "labels of forward_batch must be int64 [3], but is int32 [3]");
  CHECK_ERROR(Segmenter(models / "wrong_shape.pt").segment_encoded(bright),
              "offsets of forward_encoded must be int64 [4], but is int64 [3]");
  CHECK_ERROR(Segmenter(models / "nan.pt").segment(view), "the network's output is not finite");
  CHECK_ERROR(segmenter.segment({nullptr, 1, 1, 3, ChannelOrder::rgb}), "must not be null");
}

// An exported model runs the operators. The models of make_models.cpp do not.
void test_exported(const std::filesystem::path& model) {
  Segmenter segmenter(model);
  segmenter.set_score_threshold(0.0);
  const auto data = filled({90, 120, 30}, width * 3);
  const yolact::Detections found = segmenter.segment({data.data(), height, width, width * 3, ChannelOrder::rgb});
  CHECK(std::ranges::is_sorted(found.scores, std::greater<>()));
  check_without_canvas(segmenter, {data.data(), height, width, width * 3, ChannelOrder::rgb});
  for (const yolact::Box& box : found.boxes) {
    CHECK(0 <= box.x1 && box.x1 <= box.x2 && box.x2 <= width && 0 <= box.y1 && box.y1 <= box.y2 && box.y2 <= height);
  }
}

}  // namespace

int main(int count, char** arguments) {
  const std::filesystem::path models = arguments[1];
  const Segmenter segmenter(models / "colors.pt");
  test_properties(models);
  test_channel_orders(segmenter);
  test_nothing_found(segmenter);
  test_masks_in_three_forms(segmenter);
  test_fields_are_found_by_name(models, segmenter);
  test_batches_and_threads(segmenter);
  test_errors(models, segmenter);
  if (count > 2) test_exported(arguments[2]);
  return result();
}
