#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <yolact/detections.h>
#include <yolact/error.h>
#include <yolact/export.h>
#include <yolact/image.h>

namespace yolact {

/// How a model is run.
struct SegmenterOptions {
  std::string device = "cpu";  ///< "cpu", "cuda" or "cuda:0", "cuda:1", …
  std::string precision = {};  ///< of the network's weights and activations: fp32, bf16, fp16; empty for the file's own

  /// On CUDA: `segment` records all its work, from pixels to masks, as a CUDA graph for each list of image sizes, and
  /// then replays it. The eight last used are kept; each holds the masks of `max_detections` objects at the size of its
  /// images. Threads that call `segment` take turns.
  bool cuda_graph = false;
};

/// A model that finds the objects in images.
///
/// Several threads may call `segment` of one Segmenter at once, as long as none calls a setter meanwhile.
class YOLACT_API Segmenter {
 public:
  /// Loads a model file written by `yolact export`.
  ///
  /// Throws `Error` if the file is missing, is not such a model or was written by a newer version, or if an option
  /// cannot be used.
  Segmenter(const std::filesystem::path& model, const SegmenterOptions& options);
  explicit Segmenter(const std::filesystem::path& model, const std::string& device = "cpu",
                     const std::string& precision = "");
  ~Segmenter();
  Segmenter(Segmenter&&) noexcept;
  Segmenter& operator=(Segmenter&&) noexcept;

  /// The objects in an image of any size. Throws `Error` if the view is not valid, or the network's output not finite.
  Detections segment(const ImageView& image) const;

  /// The same for several images in one pass through the network; their sizes may differ.
  std::vector<Detections> segment(std::span<const ImageView> images) const;

  /// The same with masks as run lengths or as crops. They are faster, since no mask at the image's size is ever made.
  EncodedDetections segment_encoded(const ImageView& image) const;
  std::vector<EncodedDetections> segment_encoded(std::span<const ImageView> images) const;
  CroppedDetections segment_cropped(const ImageView& image) const;
  std::vector<CroppedDetections> segment_cropped(std::span<const ImageView> images) const;

  /// Every detection's score is above it, 0–1. The setters throw `Error` for a value outside their range.
  double score_threshold() const;
  void set_score_threshold(double threshold);

  /// Of Fast NMS: of two boxes of a class with a larger overlap, the better one stays, 0–1.
  double iou_threshold() const;
  void set_iou_threshold(double threshold);

  /// The most detections of one image, at least 0.
  std::int64_t max_detections() const;
  void set_max_detections(std::int64_t count);

  /// One name a label.
  const std::vector<std::string>& class_names() const;
  /// The name of the network's configuration, such as "yolact_resnet50".
  const std::string& preset() const;
  /// Side of the square, in pixels, to which the network's input is stretched.
  std::int64_t image_size() const;
  /// Of the network's weights and activations: fp32, bf16 or fp16.
  const std::string& precision() const;
  /// The version of yolact that wrote the file.
  const std::string& model_version() const;

 private:
  struct Implementation;
  std::unique_ptr<Implementation> implementation_;
};

/// This library's version.
YOLACT_API const char* version();

}  // namespace yolact
