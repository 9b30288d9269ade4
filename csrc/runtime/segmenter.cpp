// Only this file and results.h include torch/script.h, which takes long to compile.
#include <yolact/segmenter.h>

#include <caffe2/serialize/inline_container.h>
#include <torch/csrc/jit/runtime/jit_exception.h>
#include <torch/script.h>

#include <algorithm>
#include <charconv>
#include <mutex>
#include <new>
#include <optional>
#include <tuple>
#include <utility>

#include "cuda_graph.h"
#include "libraries.h"
#include "results.h"

namespace yolact {
namespace {

constexpr std::size_t most_graphs = 8;

// The part of TorchScript's long message that says what happened.
std::string reason_of(const std::exception& error) {
  std::string text = error.what();
  if (const auto* torch_error = dynamic_cast<const c10::Error*>(&error)) {
    text = torch_error->what_without_backtrace();
  } else if (const auto* raised = dynamic_cast<const torch::jit::JITException*>(&error)) {
    text = raised->getOriginalMsg().value_or(text);
  }
  if (text.find("DefaultCPUAllocator") != std::string::npos) return "there is not enough memory";
  const std::string unknown = "Unknown builtin op: ";
  if (const auto at = text.find(unknown); at != std::string::npos) {
    const std::string name = text.substr(at + unknown.size(), text.find_first_of(".\n", at) - at - unknown.size());
    return "it needs the operator " + name +
           ", which the compiled operators (libyolact_ops) of yolact " YOLACT_VERSION
           " do not have: install the version that wrote the file";
  }
  for (const std::string marker : {"RuntimeError: ", "ValueError: "}) {
    if (const auto at = text.rfind(marker); at != std::string::npos) text.erase(0, at + marker.size());
  }
  text.resize(std::min(text.find('\n'), text.size()));
  // The sentences after the first one are advice about torch's own tools.
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

at::ScalarType dtype_of(const std::string& precision) {
  if (precision == "fp32") return torch::kFloat;
  if (precision == "bf16") return torch::kBFloat16;
  if (precision == "fp16") return torch::kHalf;
  throw Error("precision must be one of fp32, bf16, fp16, got '" + precision + "'");
}

// Each convolution packs its weights for this machine's processor: see yolact/models/inference.py.
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

// A method of the module that takes a list of images. `Reader` reads its result for each image.
template <class Reader>
class Method {
 public:
  Method(const torch::jit::Module& module, const char* name)
      : reader_(RowType(module, name)), method_(module.get_method(name)) {}

  auto operator()(std::span<const ImageView> images) const {
    return without_torch_errors("", [&] {
      const torch::NoGradGuard no_gradients;
      c10::List<at::Tensor> tensors;
      for (const ImageView& image : images) tensors.push_back(to_tensor(image));
      const c10::IValue results = method_({tensors});
      std::vector<decltype(reader_.read(Row(), images[0]))> detections;
      for (std::size_t i = 0; i < images.size(); ++i) {
        detections.push_back(reader_.read(results.toListRef().at(i).toTupleRef().elements(), images[i]));
      }
      return detections;
    });
  }

 private:
  Reader reader_;
  torch::jit::Method method_;
};

// CUDA graphs of a module's forward_fixed. Each graph holds for the image sizes and settings that it was recorded with.
class Graphs {
 public:
  Graphs(std::unique_ptr<CudaGraphRecorder> recorder, const std::string& device, const torch::jit::Module& module)
      : device_(device),
        module_(module),
        reader_(RowType(module, "forward_fixed")),
        method_(module.get_method("forward_fixed")),
        recorder_(std::move(recorder)) {}

  std::vector<Detections> segment(std::span<const ImageView> images) {
    const std::lock_guard lock(mutex_);
    const Recorded& recorded = find_or_record(images);
    for (std::size_t i = 0; i < images.size(); ++i) {
      recorded.inputs[i].copy_(to_tensor(images[i]).contiguous().pin_memory(), /*non_blocking=*/true);
    }
    recorded.graph->replay();
    return reader_.read(recorded.results, images);
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
    Key key{{},
            module_.attr("score_threshold").toDouble(),
            module_.attr("iou_threshold").toDouble(),
            module_.attr("max_detections").toInt()};
    for (const ImageView& image : images) {
      check(image);
      std::get<0>(key).insert(std::get<0>(key).end(), {image.height, image.width});
    }
    const auto earlier = std::ranges::find(recorded_, key, &Recorded::key);
    if (earlier != recorded_.end()) {
      std::rotate(earlier, earlier + 1, recorded_.end());
      return recorded_.back();
    }
    Recorded recorded{std::move(key), {}, {}, nullptr};
    c10::List<at::Tensor> inputs;
    for (const ImageView& image : images) {
      recorded.inputs.push_back(torch::zeros({image.height, image.width, 3}, at::device(device_).dtype(torch::kByte)));
      inputs.push_back(recorded.inputs.back());
    }
    recorded.graph = recorder_->record([&] { recorded.results = method_({inputs}); });
    recorded_.push_back(std::move(recorded));
    if (recorded_.size() > most_graphs) recorded_.erase(recorded_.begin());
    return recorded_.back();
  }

  const c10::Device device_;
  const torch::jit::Module module_;
  const FixedReader reader_;
  const torch::jit::Method method_;
  std::mutex mutex_;
  const std::unique_ptr<CudaGraphRecorder> recorder_;
  std::vector<Recorded> recorded_;  // in order of use, the latest at the end
};

}  // namespace

struct Segmenter::Implementation {
  torch::jit::Module module;
  std::optional<Method<DetectionsReader>> forward_batch;
  std::optional<Method<EncodedReader>> forward_encoded;
  std::optional<Method<CroppedReader>> forward_cropped;
  std::unique_ptr<Graphs> graphs;  // null without CUDA graphs
  std::vector<std::string> class_names;
  std::string preset;
  std::string precision;
  std::string version;
  std::int64_t image_size = 0;
};

Segmenter::Segmenter(const std::filesystem::path& model, const std::string& device, const std::string& precision)
    : Segmenter(model, SegmenterOptions{device, precision}) {}

Segmenter::Segmenter(const std::filesystem::path& model, const SegmenterOptions& options)
    : implementation_(std::make_unique<Implementation>()) {
  const auto& [device, precision, cuda_graph] = options;
  const std::string prefix = model.string() + ": ";
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(model, ignored)) {
    const bool exists = std::filesystem::exists(model, ignored);
    throw Error(prefix + (exists ? "this is not a regular file" : "there is no such file"));
  }
  const at::ScalarType dtype = precision.empty() ? at::ScalarType::Undefined : dtype_of(precision);
  load_operators(device);
  auto recorder = cuda_graph ? make_cuda_graph_recorder(device) : nullptr;
  Implementation& self = *implementation_;
  // A newer file may hold operators that this version lacks, so it is not loaded.
  without_torch_errors(prefix + "this is not a model written by `yolact export`, or the file is broken: ", [&] {
    caffe2::serialize::PyTorchStreamReader reader(model.string());
    const int format = parse_number(extra_file(reader, "yolact_format"));
    self.version = extra_file(reader, "yolact_version");
    self.preset = extra_file(reader, "preset");
    self.precision = precision.empty() ? extra_file(reader, "precision") : precision;
    self.image_size = parse_number(extra_file(reader, "image_size"));
    if (format > YOLACT_FILE_FORMAT) {
      throw Error(prefix + "this file was written by yolact " + self.version + " in format " + std::to_string(format) +
                  ", but this version reads format " + std::to_string(YOLACT_FILE_FORMAT) + ": upgrade yolact");
    }
    if (format != YOLACT_FILE_FORMAT) {
      throw Error(prefix + "this is a PyTorch file, but not a model written by `yolact export`");
    }
  });
  without_torch_errors(prefix + "the model cannot be loaded: ", [&] {
    self.module = torch::jit::load(model.string(), c10::Device(device));
    if (dtype != at::ScalarType::Undefined) self.module.attr("model").toModule().to(dtype);
    pack_weights(self.module);
    for (const c10::IValue& name : self.module.attr("class_names").toListRef()) {
      self.class_names.push_back(name.toStringRef());
    }
    self.forward_batch.emplace(self.module, "forward_batch");
    self.forward_encoded.emplace(self.module, "forward_encoded");
    self.forward_cropped.emplace(self.module, "forward_cropped");
    if (cuda_graph) self.graphs = std::make_unique<Graphs>(std::move(recorder), device, self.module);
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
  return (*self.forward_batch)(images);
}

EncodedDetections Segmenter::segment_encoded(const ImageView& image) const {
  return std::move(segment_encoded({&image, 1}).front());
}

std::vector<EncodedDetections> Segmenter::segment_encoded(std::span<const ImageView> images) const {
  return (*implementation_->forward_encoded)(images);
}

CroppedDetections Segmenter::segment_cropped(const ImageView& image) const {
  return std::move(segment_cropped({&image, 1}).front());
}

std::vector<CroppedDetections> Segmenter::segment_cropped(std::span<const ImageView> images) const {
  return (*implementation_->forward_cropped)(images);
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
const std::string& Segmenter::precision() const { return implementation_->precision; }
const std::string& Segmenter::model_version() const { return implementation_->version; }

const char* version() { return YOLACT_VERSION; }

}  // namespace yolact
