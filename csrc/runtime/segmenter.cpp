// The only file that needs torch/script.h, which takes long to compile.
#include <yolact/segmenter.h>

#include <caffe2/serialize/inline_container.h>
#include <torch/csrc/jit/runtime/jit_exception.h>
#include <torch/script.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <mutex>
#include <new>
#include <tuple>
#include <utility>

#include <yolact/coco.h>

#include "cuda_graph.h"
#include "libraries.h"

namespace yolact {
namespace {

constexpr int newest_format = 4;   // FORMAT of yolact/export.py
constexpr int retired_format = 3;  // RETIRED_FORMAT likewise
constexpr std::size_t most_graphs = 8;

// Of TorchScript's many lines, the one that says what happened.
std::string reason_of(const std::exception& error) {
  std::string text = error.what();
  if (const auto* torch_error = dynamic_cast<const c10::Error*>(&error)) {
    text = torch_error->what_without_backtrace();
  } else if (const auto* raised = dynamic_cast<const torch::jit::JITException*>(&error)) {
    text = raised->getOriginalMsg().value_or(text);
  }
  const std::string unknown = "Unknown builtin op: ";
  if (const auto at = text.find(unknown); at != std::string::npos) {
    const std::string name = text.substr(at + unknown.size(), text.find_first_of(".\n", at) - at - unknown.size());
    return "it needs the operator " + name + ", which no loaded library has, libyolact_ops of yolact " YOLACT_VERSION
           " included: use the version that wrote the file";
  }
  for (const std::string marker : {"RuntimeError: ", "ValueError: "}) {
    if (const auto at = text.rfind(marker); at != std::string::npos) text.erase(0, at + marker.size());
  }
  text.resize(std::min(text.find('\n'), text.size()));
  // What follows the first sentence is advice on torch's own tools.
  return text.substr(0, text.find(". "));
}

template <class Body>
auto without_torch_errors(const std::string& prefix, const Body& body) {
  try {
    return body();
  } catch (const Error&) {
    throw;
  } catch (const std::bad_alloc&) {
    throw Error(prefix + "there is not enough memory");
  } catch (const std::exception& error) {
    throw Error(prefix + reason_of(error));
  }
}

std::string extra_file(caffe2::serialize::PyTorchStreamReader& reader, const std::string& name) {
  const std::string record = "extra/" + name;
  if (!reader.hasRecord(record)) return "";
  const auto [data, size] = reader.getRecord(record);
  return {static_cast<const char*>(data.get()), size};
}

int parse_number(const std::string& text) {
  int number = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), number);
  return failure == std::errc() && end == text.data() + text.size() ? number : 0;
}

at::Tensor to_tensor(const ImageView& view) {
  check(view);
  const std::int64_t pixel = channels(view.order);
  const at::Tensor pixels = torch::from_blob(const_cast<std::uint8_t*>(view.data), {view.height, view.width, pixel},
                                             {view.row_stride, pixel, 1}, torch::kByte);
  switch (view.order) {
    case ChannelOrder::gray: return pixels.expand({view.height, view.width, 3});
    case ChannelOrder::bgr: return pixels.flip(2);
    case ChannelOrder::bgra: return pixels.narrow(2, 0, 3).flip(2);
    default: return pixels.narrow(2, 0, 3);
  }
}

template <class T>
void copy_to(std::vector<T>& target, const at::Tensor& tensor) {
  const at::Tensor values = tensor.cpu().contiguous();
  target.resize(static_cast<std::size_t>(tensor.size(0)));
  std::memcpy(target.data(), values.const_data_ptr(), values.nbytes());
}

// The pixels of a bool tensor: a byte each, that is 0 or 1; the deleter keeps the tensor alive.
std::shared_ptr<const std::uint8_t> to_pixels(const at::Tensor& tensor) {
  const at::Tensor pixels = tensor.to(torch::kBool).cpu().contiguous();
  return {static_cast<const std::uint8_t*>(pixels.const_data_ptr()), [pixels](const std::uint8_t*) {}};
}

using Fields = c10::ArrayRef<c10::IValue>;

// `mask_scores` says where these stand.
Objects to_objects(const Fields& fields, std::size_t mask_scores, const ImageView& image) {
  Objects objects{image.height, image.width, {}, {}, {}, {}};
  copy_to(objects.boxes, fields.at(0).toTensor().to(torch::kFloat));
  copy_to(objects.scores, fields.at(1).toTensor().to(torch::kFloat));
  copy_to(objects.labels, fields.at(2).toTensor().to(torch::kLong));
  copy_to(objects.mask_scores, fields.at(mask_scores).toTensor().to(torch::kFloat));
  return objects;
}

// The fields are those of the tuples in yolact/models/detector.py. Of format 1, Detections end with the masks.
Detections to_detections(const Fields& fields, const ImageView& image) {
  return {to_objects(fields, fields.size() > 4 ? 4 : 1, image), to_pixels(fields.at(3).toTensor())};
}

EncodedDetections to_encoded(const Fields& fields, const ImageView& image) {
  EncodedDetections detections{to_objects(fields, 3, image), {}, {}};
  copy_to(detections.counts, fields.at(6).toTensor());
  copy_to(detections.offsets, fields.at(7).toTensor());
  return detections;
}

CroppedDetections to_cropped(const Fields& fields, const ImageView& image) {
  CroppedDetections detections{to_objects(fields, 3, image), {}, {}, to_pixels(fields.at(6).toTensor())};
  copy_to(detections.crops, fields.at(7).toTensor());
  copy_to(detections.offsets, fields.at(8).toTensor());
  return detections;
}

// The same from masks, for the files of older formats.
EncodedDetections encode(const Detections& detections) {
  EncodedDetections result{detections, {}, {0}};
  for (std::size_t i = 0; i < detections.size(); ++i) {
    const auto runs = run_lengths(detections.mask(i), detections.height, detections.width);
    result.counts.insert(result.counts.end(), runs.begin(), runs.end());
    result.offsets.push_back(static_cast<std::int64_t>(result.counts.size()));
  }
  return result;
}

PixelBox bounds_of(std::span<const std::uint8_t> mask, std::int64_t height, std::int64_t width) {
  PixelBox box{width, height, 0, 0};
  for (std::int64_t y = 0; y < height; ++y) {
    const auto row = mask.subspan(static_cast<std::size_t>(y * width), static_cast<std::size_t>(width));
    const auto first = std::find(row.begin(), row.end(), 1);
    if (first == row.end()) continue;
    box.x1 = std::min<std::int64_t>(box.x1, first - row.begin());
    box.x2 = std::max<std::int64_t>(box.x2, std::find(row.rbegin(), row.rend(), 1).base() - row.begin());
    box.y1 = std::min(box.y1, y);
    box.y2 = y + 1;
  }
  return box.y2 == 0 ? PixelBox{0, 0, 0, 0} : box;
}

CroppedDetections crop(const Detections& detections) {
  CroppedDetections result{detections, {}, {0}, nullptr};
  const auto pixels = std::make_shared<std::vector<std::uint8_t>>();
  for (std::size_t i = 0; i < detections.size(); ++i) {
    const auto mask = detections.mask(i);
    const PixelBox& box = result.crops.emplace_back(bounds_of(mask, detections.height, detections.width));
    for (std::int64_t y = box.y1; y < box.y2; ++y) {
      const auto row = mask.begin() + y * detections.width;
      pixels->insert(pixels->end(), row + box.x1, row + box.x2);
    }
    result.offsets.push_back(static_cast<std::int64_t>(pixels->size()));
  }
  result.pixels = {pixels, pixels->data()};
  return result;
}

at::ScalarType dtype_of(const std::string& precision) {
  if (precision == "fp32") return torch::kFloat;
  if (precision == "bf16") return torch::kBFloat16;
  if (precision == "fp16") return torch::kHalf;
  throw Error("precision '" + precision + "' is not supported: give fp32, bf16 or fp16, or none for the file's own");
}

// Before format 4 the network was part of the graph.
void set_precision(const std::string& prefix, const torch::jit::Module& module, at::ScalarType dtype) {
  if (!module.hasattr("model")) throw Error(prefix + "a file of this age has one precision: export it again");
  module.attr("model").toModule().to(dtype);
}

// Each convolution lays out its weights for this machine: see yolact/models/inference.py.
void pack_weights(const torch::jit::Module& module) {
  const torch::NoGradGuard no_gradients;
  for (const torch::jit::Module& part : module.modules()) {
    if (auto method = part.find_method("pack_weights")) (*method)({});
  }
}

void check_fraction(const char* name, double value) {
  if (!(value >= 0.0 && value <= 1.0)) {
    throw Error(std::string(name) + " must be between 0 and 1, got " + std::to_string(value));
  }
}

// Detections from what forward_fixed gives: see FixedDetections in yolact/models/detector.py.
std::vector<Detections> to_detections(const c10::IValue& results, std::span<const ImageView> images) {
  const auto rows_of = [](const c10::IValue& fixed) { return Fields(fixed.toTupleRef().elements()); };
  std::vector<at::Tensor> counts;
  for (const c10::IValue& fixed : results.toListRef()) counts.push_back(rows_of(fixed).back().toTensor());
  const at::Tensor read = at::stack(counts).cpu();
  std::vector<Detections> detections;
  for (std::size_t i = 0; i < images.size(); ++i) {
    const std::int64_t count = read.const_data_ptr<std::int64_t>()[i];
    if (count < 0) {
      throw Error("the network's output is not finite (NaN or infinity): check the weights and the precision");
    }
    std::vector<c10::IValue> fields;
    for (const c10::IValue& rows : rows_of(results.toListRef()[i]).slice(0, 5)) {
      fields.emplace_back(rows.toTensor().narrow(0, 0, count));
    }
    detections.push_back(to_detections(fields, images[i]));
  }
  return detections;
}

// A module's forward_fixed as CUDA graphs, each for the sizes and settings that it was recorded with.
class Graphs {
 public:
  Graphs(std::unique_ptr<CudaGraphRecorder> recorder, const std::string& device, const torch::jit::Module& module)
      : device_(device), module_(module), recorder_(std::move(recorder)) {}

  std::vector<Detections> segment(std::span<const ImageView> images) {
    const std::lock_guard lock(mutex_);
    const Recorded& recorded = find_or_record(images);
    for (std::size_t i = 0; i < images.size(); ++i) {
      recorded.inputs[i].copy_(to_tensor(images[i]).contiguous().pin_memory(), /*non_blocking=*/true);
    }
    recorded.graph->replay();
    return to_detections(recorded.results, images);
  }

 private:
  // Sizes, score_threshold, iou_threshold and max_detections.
  using Key = std::tuple<std::vector<std::int64_t>, double, double, std::int64_t>;

  struct Recorded {
    Key key;
    std::vector<at::Tensor> inputs;
    c10::IValue results;
    std::unique_ptr<CudaGraph> graph;
  };

  const Recorded& find_or_record(std::span<const ImageView> images) {
    Key key{{}, module_.attr("score_threshold").toDouble(), module_.attr("iou_threshold").toDouble(),
            module_.attr("max_detections").toInt()};
    for (const ImageView& image : images) {
      check(image);
      std::get<0>(key).insert(std::get<0>(key).end(), {image.height, image.width});
    }
    const auto found = std::ranges::find(recorded_, key, &Recorded::key);
    if (found != recorded_.end()) {
      std::rotate(found, found + 1, recorded_.end());
      return recorded_.back();
    }
    Recorded recorded{std::move(key), {}, {}, nullptr};
    c10::List<at::Tensor> inputs;
    for (const ImageView& image : images) {
      recorded.inputs.push_back(torch::zeros({image.height, image.width, 3}, at::device(device_).dtype(torch::kByte)));
      inputs.push_back(recorded.inputs.back());
    }
    auto method = module_.get_method("forward_fixed");
    recorded.graph = recorder_->record([&] { recorded.results = method({inputs}); });
    recorded_.push_back(std::move(recorded));
    if (recorded_.size() > most_graphs) recorded_.erase(recorded_.begin());
    return recorded_.back();
  }

  const c10::Device device_;
  const torch::jit::Module module_;
  std::mutex mutex_;
  const std::unique_ptr<CudaGraphRecorder> recorder_;
  std::vector<Recorded> recorded_;  // the last used last
};

}  // namespace

struct Segmenter::Implementation {
  torch::jit::Module module;
  std::unique_ptr<Graphs> graphs;  // or null
  std::vector<std::string> class_names;
  std::string preset;
  std::string version;
  std::int64_t image_size = 0;

  bool has(const char* method) const { return module.find_method(method).has_value(); }

  // What a method of the module that takes a list of images gives, each image's fields through `convert`.
  template <class Convert>
  auto run(const char* method, std::span<const ImageView> images, const Convert& convert) const {
    return without_torch_errors("", [&] {
      const torch::NoGradGuard no_gradients;
      c10::List<at::Tensor> tensors;
      for (const ImageView& image : images) tensors.push_back(to_tensor(image));
      const c10::IValue results = module.get_method(method)({tensors});
      std::vector<decltype(convert(Fields(), images[0]))> detections;
      for (std::size_t i = 0; i < images.size(); ++i) {
        detections.push_back(convert(results.toListRef()[i].toTupleRef().elements(), images[i]));
      }
      return detections;
    });
  }
};

Segmenter::Segmenter(const std::filesystem::path& model, const std::string& device, const std::string& precision)
    : Segmenter(model, SegmenterOptions{device, precision}) {}

Segmenter::Segmenter(const std::filesystem::path& model, const SegmenterOptions& options)
    : implementation_(std::make_unique<Implementation>()) {
  const auto& [device, precision, cuda_graph] = options;
  const std::string prefix = model.string() + ": ";
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(model, ignored)) throw Error(prefix + "there is no such file");
  const at::ScalarType dtype = precision.empty() ? at::ScalarType::Undefined : dtype_of(precision);
  load_operators(device);
  auto recorder = cuda_graph ? make_cuda_graph_recorder(device) : nullptr;
  Implementation& self = *implementation_;
  // Before the graph is read, which a newer format may make impossible.
  without_torch_errors(prefix + "this is not a model written by `yolact export`, or a broken one: ", [&] {
    caffe2::serialize::PyTorchStreamReader reader(model.string());
    const int format = parse_number(extra_file(reader, "yolact_format"));
    self.version = extra_file(reader, "yolact_version");
    self.preset = extra_file(reader, "preset");
    self.image_size = parse_number(extra_file(reader, "image_size"));
    if (format <= 0) throw Error(prefix + "this is a PyTorch file, but no model written by `yolact export`");
    if (format == retired_format) {
      throw Error(prefix + "format " + std::to_string(format) +
                  " of development versions is read no longer: export it again");
    }
    if (format > newest_format) {
      throw Error(prefix + "written by yolact " + self.version + " in format " + std::to_string(format) +
                  ", but this version reads formats up to " + std::to_string(newest_format) + ": upgrade yolact");
    }
  });
  without_torch_errors(prefix + "the model cannot be loaded: ", [&] {
    self.module = torch::jit::load(model.string(), c10::Device(device));
    if (dtype != at::ScalarType::Undefined) set_precision(prefix, self.module, dtype);
    pack_weights(self.module);
    for (const c10::IValue& name : self.module.attr("class_names").toListRef()) {
      self.class_names.push_back(name.toStringRef());
    }
    if (!cuda_graph) return;
    if (!self.has("forward_fixed")) throw Error(prefix + "a file of this age has no CUDA graphs: export it again");
    self.graphs = std::make_unique<Graphs>(std::move(recorder), device, self.module);
  });
}

Segmenter::~Segmenter() = default;
Segmenter::Segmenter(Segmenter&&) noexcept = default;
Segmenter& Segmenter::operator=(Segmenter&&) noexcept = default;

Detections Segmenter::segment(const ImageView& image) const { return std::move(segment({&image, 1}).front()); }

std::vector<Detections> Segmenter::segment(std::span<const ImageView> images) const {
  Implementation& self = *implementation_;
  if (self.graphs && !images.empty()) {
    return without_torch_errors("", [&] {
      const torch::NoGradGuard no_gradients;
      return self.graphs->segment(images);
    });
  }
  return self.run("forward_batch", images,
                  [](const Fields& fields, const ImageView& image) { return to_detections(fields, image); });
}

EncodedDetections Segmenter::segment_encoded(const ImageView& image) const {
  return std::move(segment_encoded({&image, 1}).front());
}

std::vector<EncodedDetections> Segmenter::segment_encoded(std::span<const ImageView> images) const {
  const char* method = "forward_encoded";
  if (implementation_->has(method)) return implementation_->run(method, images, to_encoded);
  return implementation_->run("forward_batch", images, [](const Fields& fields, const ImageView& image) {
    return encode(to_detections(fields, image));
  });
}

CroppedDetections Segmenter::segment_cropped(const ImageView& image) const {
  return std::move(segment_cropped({&image, 1}).front());
}

std::vector<CroppedDetections> Segmenter::segment_cropped(std::span<const ImageView> images) const {
  const char* method = "forward_cropped";
  if (implementation_->has(method)) return implementation_->run(method, images, to_cropped);
  return implementation_->run("forward_batch", images, [](const Fields& fields, const ImageView& image) {
    return crop(to_detections(fields, image));
  });
}

double Segmenter::score_threshold() const { return implementation_->module.attr("score_threshold").toDouble(); }

void Segmenter::set_score_threshold(double threshold) {
  check_fraction("score_threshold", threshold);
  implementation_->module.setattr("score_threshold", threshold);
}

double Segmenter::iou_threshold() const { return implementation_->module.attr("iou_threshold").toDouble(); }

void Segmenter::set_iou_threshold(double threshold) {
  check_fraction("iou_threshold", threshold);
  implementation_->module.setattr("iou_threshold", threshold);
}

std::int64_t Segmenter::max_detections() const { return implementation_->module.attr("max_detections").toInt(); }

void Segmenter::set_max_detections(std::int64_t count) {
  if (count < 0) throw Error("max_detections must not be negative, got " + std::to_string(count));
  implementation_->module.setattr("max_detections", count);
}

const std::vector<std::string>& Segmenter::class_names() const { return implementation_->class_names; }
const std::string& Segmenter::preset() const { return implementation_->preset; }
std::int64_t Segmenter::image_size() const { return implementation_->image_size; }
const std::string& Segmenter::model_version() const { return implementation_->version; }

const char* version() { return YOLACT_VERSION; }

}  // namespace yolact
