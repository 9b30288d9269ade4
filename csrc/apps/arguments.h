// The command line of yolact-segment.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include <yolact/image.h>

struct Arguments {
  std::filesystem::path model;
  std::vector<std::filesystem::path> sources;  // images, and folders of images
  std::filesystem::path output = "yolact-output";
  double score_threshold = 0.15;  // what a person wants to see; `yolact predict` has the same
  std::optional<std::int64_t> max_detections;
  std::string device = "cpu";
  std::string precision;  // empty: the file's
  bool cuda_graph = false;
  yolact::Reading reading;
  std::optional<std::filesystem::path> json;  // where COCO results go
  bool pictures = true;
  bool help = false;
  bool version = false;
};

// Wrong usage; the message says what is wrong.
class UsageError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

extern const char* const usage;

Arguments parse_arguments(int count, const char* const* values);
