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

/// Where and how a model runs.
struct SegmenterOptions {
  std::string device = "cpu";  ///< "cpu", "cuda" or "cuda:0", "cuda:1", …
  std::string precision = {};  ///< of weights and activations: fp32, bf16 or fp16; empty: the file's precision

  /// For CUDA only: `segment` records all its work, from pixels to masks, as a CUDA graph for each list of image sizes
  /// and replays that graph in later calls. The eight graphs used last are kept. Each of them holds memory for masks
  /// of `max_detections` objects at the size of its images. Threads that call `segment` take turns.
  bool cuda_graph = false;
};

/// A model that finds the objects in images.
///
/// Several threads may call the `segment` functions of one Segmenter at once, as long as no thread calls a setter
/// meanwhile.
class YOLACT_API Segmenter {
 public:
  /// Loads a model file written by `yolact export`.
  ///
  /// Throws `Error` if the file is missing, is not such a model or was written by a newer version, or if this machine
  /// cannot use the device or the precision.
  Segmenter(const std::filesystem::path& model, const SegmenterOptions& options);
  explicit Segmenter(const std::filesystem::path& model, const std::string& device = "cpu",
                     const std::string& precision = "");
  ~Segmenter();
  Segmenter(Segmenter&&) noexcept;
  Segmenter& operator=(Segmenter&&) noexcept;

  /// Finds the objects in an image of any size. Throws `Error` if the view is not valid or if the network's output is
  /// not finite.
  Detections segment(const ImageView& image) const;

  /// Does the same for several images in one pass through the network. Their sizes may differ.
  std::vector<Detections> segment(std::span<const ImageView> images) const;

  /// Like `segment`, with masks as run lengths or as crops. This is faster: no mask of the image's size is made.
  EncodedDetections segment_encoded(const ImageView& image) const;
  std::vector<EncodedDetections> segment_encoded(std::span<const ImageView> images) const;
  CroppedDetections segment_cropped(const ImageView& image) const;
  std::vector<CroppedDetections> segment_cropped(std::span<const ImageView> images) const;

  /// Only objects with a higher score are returned, 0–1. All setters throw `Error` for a value outside the range.
  double score_threshold() const;
  void set_score_threshold(double threshold);

  /// The threshold of Fast NMS, 0–1: where two boxes of a class have a larger IoU, only the better one stays.
  double iou_threshold() const;
  void set_iou_threshold(double threshold);

  /// The largest number of objects returned for an image, at least 0.
  std::int64_t max_detections() const;
  void set_max_detections(std::int64_t count);

  /// The name of each label.
  const std::vector<std::string>& class_names() const;
  /// The name of the network's configuration, such as "yolact_resnet50".
  const std::string& preset() const;
  /// The side, in pixels, of the square to which images are stretched for the network.
  std::int64_t image_size() const;
  /// The precision of the network's weights and activations: fp32, bf16 or fp16.
  const std::string& precision() const;
  /// The version of yolact that wrote the model file.
  const std::string& model_version() const;

 private:
  struct Implementation;
  std::unique_ptr<Implementation> implementation_;
};

/// The version of this library.
YOLACT_API const char* version();

}  // namespace yolact
