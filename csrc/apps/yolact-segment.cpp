// Finds the objects in images with an exported model and writes pictures of them, COCO results, or both.
#include <yolact/yolact.h>

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <exception>
#include <new>
#include <string>

#include "arguments.h"
#include "files.h"

namespace {

// Of 255. A 16-bit image with lower values holds data of 13 bits or fewer. Python has the same.
constexpr int dark = 32;

void print_error(const std::string& message) { std::fprintf(stderr, "yolact-segment: %s\n", message.c_str()); }

std::string counted(std::size_t number, const std::string& noun) {
  return std::to_string(number) + " " + noun + (number == 1 ? "" : "s");
}

// Standard output. After a failure the rest goes nowhere, because the pictures must be written all the same.
class Output {
 public:
  void print(const std::string& line) {
    if (failure_ == 0 && (std::fputs((line + "\n").c_str(), stdout) < 0 || std::fflush(stdout) != 0)) failure_ = errno;
  }

  int failure() const { return failure_; }  // a value of errno, or 0

 private:
  int failure_ = 0;
};

// The 16-bit images that were read with their high bytes and are almost black.
class DarkImages {
 public:
  void look_at(const yolact::Image& image, const std::filesystem::path& path) {
    if (!image.sixteen_bit) return;
    const int most = *std::max_element(image.pixels.get(), image.pixels.get() + image.height * image.width * 3);
    if (most < dark && number_++ == 0) {
      first_ = path;
      most_ = most;
    }
  }

  void warn() const {
    if (number_ == 0) return;
    const int bits = std::bit_width(256u * (static_cast<unsigned>(most_) + 1) - 1);
    print_error("warning: dark 16-bit picture: " + counted(number_, "picture") + ", for example " + first_.string() +
                ": its values have " + std::to_string(bits) + " of 16 bits, so that its brightest pixel is " +
                std::to_string(most_) + " of 255 – read with its high bytes, unless --16-bit scale is given");
  }

 private:
  std::size_t number_ = 0;
  std::filesystem::path first_;
  int most_ = 0;  // the largest value in the first one
};

// The result of `body`, whose errors do not say which image they are about.
template <class Body>
auto named(const std::filesystem::path& path, const Body& body) {
  try {
    return body();
  } catch (const yolact::Error& error) {
    throw yolact::Error(path.string() + ": " + error.what());
  }
}

class Work {
 public:
  Work(const Arguments& arguments, const yolact::Segmenter& segmenter) : arguments_(arguments), segmenter_(segmenter) {}

  // Finds the objects in an image and adds them to the results. Draws them if `picture` is not empty. Returns a line
  // that says what was done.
  std::string segment(const std::filesystem::path& path, std::int64_t number, const std::filesystem::path& picture) {
    yolact::Image image = yolact::read_image(path, arguments_.reading);
    if (arguments_.reading.sixteen_bit == yolact::SixteenBit::high) dark_images_.look_at(image, path);
    const std::vector<std::string>& names = segmenter_.class_names();
    if (picture.empty()) {
      const auto detections = named(path, [&] { return segmenter_.segment_encoded(image.view()); });
      add(path, number, detections);
      return path.string() + ": " + counted(detections.size(), "detection");
    }
    const auto detections = named(path, [&] {
      auto found = segmenter_.segment(image.view());
      yolact::draw(image, found, names);
      return found;
    });
    yolact::write_png(picture, image);
    add(path, number, detections);
    return path.string() + ": " + counted(detections.size(), "detection") + ", " + picture.string();
  }

  const yolact::CocoResults& results() const { return results_; }
  const DarkImages& dark_images() const { return dark_images_; }

 private:
  template <class Detections>
  void add(const std::filesystem::path& path, std::int64_t number, const Detections& detections) {
    if (arguments_.json) results_.add(path.string(), number, detections, segmenter_.class_names());
  }

  const Arguments& arguments_;
  const yolact::Segmenter& segmenter_;
  yolact::CocoResults results_;
  DarkImages dark_images_;
};

void warn_of_slow_precision(const yolact::Segmenter& segmenter, const std::string& device) {
#ifdef __x86_64__
  if (device != "cpu" || segmenter.precision() != "fp16") return;
  print_error(
      "warning: fp16 is slow on a CPU, where an image took more than ten times as long as in fp32: use fp32 or bf16");
#else
  static_cast<void>(segmenter), static_cast<void>(device);
#endif
}

// Says how many of several images failed. The failure of a single image has been said in its own line.
void sum_up(std::size_t failures, std::size_t images) {
  if (failures == 0 || images == 1) return;
  print_error(std::to_string(failures) + " of " + std::to_string(images) + " images failed" +
              (failures < images ? ", the others are done" : ""));
}

int segment(const Arguments& arguments, Output& output) {
  const yolact::SegmenterOptions options{
      .device = arguments.device, .precision = arguments.precision, .cuda_graph = arguments.cuda_graph};
  yolact::Segmenter segmenter(arguments.model, options);
  segmenter.set_score_threshold(arguments.score_threshold);
  if (arguments.max_detections) segmenter.set_max_detections(*arguments.max_detections);
  warn_of_slow_precision(segmenter, arguments.device);

  const Paths images = images_in(arguments.sources);
  const Paths pictures = arguments.pictures ? picture_paths(images, arguments.output) : Paths(images.size());
  Paths inputs = images, outputs = arguments.pictures ? pictures : Paths();
  inputs.push_back(arguments.model);
  if (arguments.json) outputs.push_back(*arguments.json);
  check_distinct(inputs, outputs);
  if (arguments.pictures) {
    yolact::make_folder(arguments.output);
    yolact::check_folder_writable(arguments.output);
  }
  if (arguments.json) {
    if (arguments.json->has_parent_path()) yolact::make_folder(arguments.json->parent_path());
    yolact::check_writable(*arguments.json);
  }

  Work work(arguments, segmenter);
  std::size_t failures = 0;
  for (std::size_t i = 0; i < images.size(); ++i) {
    try {
      output.print(work.segment(images[i], static_cast<std::int64_t>(i + 1), pictures[i]));
      continue;
    } catch (const yolact::Error& error) {
      print_error(error.what());
    } catch (const std::bad_alloc&) {
      print_error(images[i].string() + ": there is not enough memory for this image");
    } catch (const std::exception& error) {
      print_error(images[i].string() + ": " + error.what());
    }
    ++failures;
  }
  work.dark_images().warn();
  sum_up(failures, images.size());
  if (arguments.json) yolact::write_file(*arguments.json, work.results().json());
  return failures > 0 ? 1 : 0;
}

int run(int count, char** values, Output& output) {
  try {
    const Arguments arguments = parse_arguments(count, values);
    if (!arguments.help && !arguments.version) return segment(arguments, output);
    output.print(arguments.help ? usage : std::string("yolact-segment ") + yolact::version());
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
  // A stream that was closed would become the first file that is opened, and receive what we print.
  for (int stream = STDIN_FILENO; stream <= STDERR_FILENO; ++stream) {
    if (::fcntl(stream, F_GETFD) < 0) static_cast<void>(::open("/dev/null", O_RDWR));
  }
  // The system ends a program that writes to a pipe without a reader, or beyond the limit of a file's size.
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);
  Output output;
  const int code = run(count, values, output);
  if (output.failure() == 0) return code;
  // The reader of our output may stop before the end.
  if (output.failure() != EPIPE) print_error(yolact::write_error("standard output", output.failure()).what());
  return 1;
}
