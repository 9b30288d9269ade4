// Finds the objects in images with an exported model and writes pictures of them, COCO results, or both.
#include <yolact/yolact.h>

#include <csignal>
#include <cstdio>
#include <exception>
#include <fstream>
#include <new>
#include <string>

#include "arguments.h"
#include "files.h"

namespace {

void print_error(const std::string& message) { std::fprintf(stderr, "yolact-segment: %s\n", message.c_str()); }

void print(const std::string& line) { std::printf("%s\n", line.c_str()); }

void write_text(const std::filesystem::path& path, const std::string& text) {
  std::ofstream stream(path, std::ios::binary);
  stream << text;
  stream.close();
  if (!stream) throw yolact::Error(path.string() + ": the file cannot be written");
}

int segment(const Arguments& arguments) {
  const yolact::SegmenterOptions options{
      .device = arguments.device, .precision = arguments.precision, .cuda_graph = arguments.cuda_graph};
  yolact::Segmenter segmenter(arguments.model, options);
  segmenter.set_score_threshold(arguments.score_threshold);
  if (arguments.max_detections) segmenter.set_max_detections(*arguments.max_detections);

  const Paths images = images_in(arguments.sources);
  const Paths pictures = arguments.pictures ? picture_paths(images, arguments.output) : Paths();
  Paths inputs = images, outputs = pictures;
  inputs.push_back(arguments.model);
  if (arguments.json) outputs.push_back(*arguments.json);
  check_distinct(inputs, outputs);
  if (arguments.pictures) std::filesystem::create_directories(arguments.output);
  if (arguments.json && arguments.json->has_parent_path()) {
    std::filesystem::create_directories(arguments.json->parent_path());
  }

  yolact::CocoResults results;
  std::size_t failures = 0;
  for (std::size_t i = 0; i < images.size(); ++i) {
    yolact::Image image;
    yolact::Detections detections;
    yolact::EncodedDetections encoded;  // in place of `detections` if no picture is drawn
    const auto number = static_cast<std::int64_t>(i + 1);
    try {
      image = yolact::read_image(images[i]);
    } catch (const yolact::Error& error) {
      print_error(error.what());
      ++failures;
      continue;
    }
    try {
      if (arguments.pictures) {
        detections = segmenter.segment(image.view());
      } else {
        encoded = segmenter.segment_encoded(image.view());
      }
    } catch (const yolact::Error& error) {
      print_error(images[i].string() + ": " + error.what());
      ++failures;
      continue;
    }
    if (!arguments.pictures) {
      results.add(images[i].string(), number, encoded, segmenter.class_names());
      print(images[i].string() + ": " + std::to_string(encoded.size()) + " detections");
      continue;
    }
    yolact::draw(image, detections, segmenter.class_names());
    write_whole(pictures[i], [&](const auto& temporary) { yolact::write_png(temporary, image); });
    print(images[i].string() + ": " + std::to_string(detections.size()) + " detections, " + pictures[i].string());
    if (arguments.json) {
      results.add(images[i].string(), number, detections, segmenter.class_names());
    }
  }
  if (arguments.json) {
    write_whole(*arguments.json, [&](const auto& temporary) { write_text(temporary, results.json()); });
  }
  if (failures > 0) {
    print_error(std::to_string(failures) + " of " + std::to_string(images.size()) +
                " images failed, the others are done");
  }
  return failures > 0 ? 1 : 0;
}

int run(int count, char** values) {
  try {
    const Arguments arguments = parse_arguments(count, values);
    if (!arguments.help && !arguments.version) return segment(arguments);
    print(arguments.help ? usage : std::string("yolact-segment ") + yolact::version());
    return 0;
  } catch (const UsageError& error) {
    print_error(std::string(error.what()) + " (see yolact-segment --help)");
    return 2;
  } catch (const std::bad_alloc&) {
    print_error("there is not enough memory");
  } catch (const std::exception& error) {
    print_error(error.what());
  }
  return 1;
}

}  // namespace

int main(int count, char** values) {
  // The reader of our output may stop before the end; the pictures must be written all the same.
  std::signal(SIGPIPE, SIG_IGN);
  const int code = run(count, values);
  return std::fflush(stdout) == 0 && !std::ferror(stdout) ? code : 1;
}
