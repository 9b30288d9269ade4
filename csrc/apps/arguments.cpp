#include "arguments.h"

#include <charconv>
#include <string_view>
#include <system_error>

const char* const usage =
    "Usage: yolact-segment MODEL SOURCE... [options]\n"
    "\n"
    "Finds the objects in images, and draws them onto copies of the images.\n"
    "\n"
    "  MODEL                 a file written by `yolact export`\n"
    "  SOURCE                a JPEG or PNG image, or a folder of them\n"
    "\n"
    "  -o, --output DIR      folder for the pictures (default: yolact-output)\n"
    "  --json FILE           write COCO results to this file too\n"
    "  --pictures, --no-pictures\n"
    "                        draw pictures or not; without them --json takes less time (default: --pictures)\n"
    "  --ignore-exif         leave images as they are stored, without turning them upright\n"
    "  --16-bit HOW          of 16-bit images: keep the high byte (high), or make the largest value of each image 255\n"
    "                        (scale), for data of fewer bits (default: high)\n"
    "  --score-threshold X   keep detections with a higher score, 0-1 (default: 0.15)\n"
    "  --max-detections N    keep at most that many of each image (default: the model's)\n"
    "  --device DEVICE       cpu, cuda or cuda:N (default: cpu)\n"
    "  --precision P         of the network's weights and activations: fp32, bf16 or fp16 (default: the file's)\n"
    "  --cuda-graph          on CUDA: record the work for each image size once, then replay it in one launch\n"
    "  --help                show this and exit\n"
    "  --version             show the version and exit\n"
    "\n"
    "Exit code: 0 if all went well, 1 on an error, 2 on wrong usage.\n";

namespace {

template <class Number>
Number parse(const std::string& option, std::string_view text, Number least, Number most, const char* range) {
  Number number{};
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (failure != std::errc() || end != text.data() + text.size() || !(number >= least && number <= most)) {
    throw UsageError(option + " needs " + range + ", got '" + std::string(text) + "'");
  }
  return number;
}

yolact::SixteenBit parse_sixteen_bit(const std::string& text) {
  if (text == "high") return yolact::SixteenBit::high;
  if (text == "scale") return yolact::SixteenBit::scale;
  throw UsageError("--16-bit needs high or scale, got '" + text + "'");
}

}  // namespace

Arguments parse_arguments(int count, const char* const* values) {
  Arguments arguments;
  std::vector<std::string> positional;
  bool options_end = false;
  for (int i = 1; i < count; ++i) {
    std::string option = values[i];
    if (options_end || option.size() < 2 || option[0] != '-') {
      positional.push_back(option);
      continue;
    }
    std::optional<std::string> attached;
    if (const auto equals = option.find('='); option.starts_with("--") && equals != std::string::npos) {
      attached = option.substr(equals + 1);
      option.resize(equals);
    }
    const auto value = [&]() -> std::string {
      if (attached) return *attached;
      if (i + 1 == count) throw UsageError(option + " needs a value");
      return values[++i];
    };
    if (option == "-o" || option == "--output") {
      arguments.output = value();
    } else if (option == "--json") {
      arguments.json = value();
    } else if (option == "--score-threshold") {
      arguments.score_threshold = parse(option, value(), 0.0, 1.0, "a number from 0 to 1");
    } else if (option == "--max-detections") {
      arguments.max_detections = parse<std::int64_t>(option, value(), 1, INT32_MAX, "a whole number from 1 on");
    } else if (option == "--device") {
      arguments.device = value();
    } else if (option == "--precision") {
      arguments.precision = value();
    } else if (option == "--16-bit") {
      arguments.reading.sixteen_bit = parse_sixteen_bit(value());
    } else if (attached) {
      throw UsageError(option + " is not an option, or takes no value");
    } else if (option == "--cuda-graph") {
      arguments.cuda_graph = true;
    } else if (option == "--ignore-exif") {
      arguments.reading.ignore_exif = true;
    } else if (option == "--pictures" || option == "--no-pictures") {
      arguments.pictures = option == "--pictures";
    } else if (option == "--help" || option == "-h") {
      arguments.help = true;
    } else if (option == "--version") {
      arguments.version = true;
    } else if (option == "--") {
      options_end = true;
    } else {
      throw UsageError("there is no option " + option);
    }
  }
  if (arguments.help || arguments.version) return arguments;
  if (positional.empty()) throw UsageError("MODEL and SOURCE are missing");
  if (positional.size() == 1) throw UsageError("SOURCE is missing: give an image or a folder of images");
  if (!arguments.pictures && !arguments.json) {
    throw UsageError("--no-pictures leaves nothing to write without --json FILE");
  }
  if (arguments.cuda_graph && !arguments.device.starts_with("cuda")) {
    throw UsageError("--cuda-graph needs --device cuda");
  }
  if (arguments.cuda_graph && !arguments.pictures) throw UsageError("--cuda-graph works only with pictures");
  if (arguments.output.empty()) throw UsageError("--output needs a folder");
  if (arguments.json && arguments.json->filename().empty()) throw UsageError("--json needs a file");
  arguments.model = positional.front();
  arguments.sources.assign(positional.begin() + 1, positional.end());
  return arguments;
}
