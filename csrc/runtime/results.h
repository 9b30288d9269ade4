// Reads the results of an exported model's methods: named tuples, which yolact/models/detections.py defines. Each field
// is looked up by its name once for each method, when the model is loaded.
#pragma once

#include <torch/script.h>

#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <yolact/detections.h>
#include <yolact/error.h>
#include <yolact/image.h>

namespace yolact {

// The fields of one named tuple.
using Row = c10::ArrayRef<c10::IValue>;

inline std::string describe(at::ScalarType dtype, at::IntArrayRef sizes) {
  return std::string(c10::getDtypeNames(dtype).first) + " " + c10::str(sizes);
}

// A tensor's place among the fields, and its dtype.
class Field {
 public:
  Field(std::string name, std::size_t index, at::ScalarType dtype)
      : name_(std::move(name)), index_(index), dtype_(dtype) {}

  std::int64_t count(const Row& row) const { return row.at(index_).toTensor().numel(); }

  // Throws `Error` if the tensor has other sizes or another dtype, since its bytes are copied unconverted.
  at::Tensor read(const Row& row, at::IntArrayRef sizes) const {
    const at::Tensor& tensor = row.at(index_).toTensor();
    if (tensor.scalar_type() == dtype_ && tensor.sizes() == sizes) return tensor;
    throw Error("the model is broken: the field " + name_ + " must be " + describe(dtype_, sizes) + ", but is " +
                describe(tensor.scalar_type(), tensor.sizes()));
  }

 private:
  std::string name_;
  std::size_t index_;
  at::ScalarType dtype_;
};

// The type of the named tuples in the list that a method of `module` returns. Throws std::runtime_error if the method
// does not exist or returns something else.
class RowType {
 public:
  RowType(const torch::jit::Module& module, const char* method) : method_(method) {
    const auto function = module.find_method(method_);
    if (!function) throw std::runtime_error("it has no method " + method_);
    const c10::TypePtr result = function->function().getSchema().returns().at(0).type();
    if (const auto list = result->cast<c10::ListType>()) type_ = list->getElementType()->cast<c10::TupleType>();
    if (!type_ || !type_->schema()) {
      throw std::runtime_error("its method " + method_ + " does not return a list of named tuples");
    }
  }

  Field field(const char* name, at::ScalarType dtype) const {
    const std::optional<int> index = type_->schema()->argumentIndexWithName(name);
    if (!index) throw std::runtime_error("the results of its method " + method_ + " have no field " + name);
    return {std::string(name) + " of " + method_, static_cast<std::size_t>(*index), dtype};
  }

 private:
  std::string method_;
  c10::TupleTypePtr type_;
};

template <class T>
void copy_to(std::vector<T>& target, const at::Tensor& tensor) {
  const at::Tensor values = tensor.cpu().contiguous();
  target.resize(static_cast<std::size_t>(tensor.size(0)));
  std::memcpy(target.data(), values.const_data_ptr(), values.nbytes());
}

// The pixels of a bool tensor, each a byte that is 0 or 1. The pointer's deleter keeps the tensor alive.
inline std::shared_ptr<const std::uint8_t> to_pixels(const at::Tensor& tensor) {
  const at::Tensor pixels = tensor.cpu().contiguous();
  return {static_cast<const std::uint8_t*>(pixels.const_data_ptr()), [pixels](const std::uint8_t*) {}};
}

class ObjectsReader {
 public:
  explicit ObjectsReader(const RowType& type)
      : boxes_(type.field("boxes", at::kFloat)),
        scores_(type.field("scores", at::kFloat)),
        labels_(type.field("labels", at::kLong)),
        mask_scores_(type.field("mask_scores", at::kFloat)) {}

  Objects read(const Row& row, const ImageView& image) const {
    Objects objects{image.height, image.width, {}, {}, {}, {}};
    const std::int64_t count = labels_.count(row);
    copy_to(objects.boxes, boxes_.read(row, {count, 4}));
    copy_to(objects.scores, scores_.read(row, {count}));
    copy_to(objects.labels, labels_.read(row, {count}));
    copy_to(objects.mask_scores, mask_scores_.read(row, {count}));
    return objects;
  }

 private:
  Field boxes_, scores_, labels_, mask_scores_;
};

class DetectionsReader {
 public:
  explicit DetectionsReader(const RowType& type) : objects_(type), masks_(type.field("masks", at::kBool)) {}

  Detections read(const Row& row, const ImageView& image) const {
    Detections detections{objects_.read(row, image), nullptr};
    const auto count = static_cast<std::int64_t>(detections.size());
    detections.masks = to_pixels(masks_.read(row, {count, image.height, image.width}));
    return detections;
  }

 private:
  ObjectsReader objects_;
  Field masks_;
};

class EncodedReader {
 public:
  explicit EncodedReader(const RowType& type)
      : objects_(type), counts_(type.field("counts", at::kLong)), offsets_(type.field("offsets", at::kLong)) {}

  EncodedDetections read(const Row& row, const ImageView& image) const {
    EncodedDetections detections{objects_.read(row, image), {}, {}};
    copy_to(detections.offsets, offsets_.read(row, {static_cast<std::int64_t>(detections.size()) + 1}));
    copy_to(detections.counts, counts_.read(row, {detections.offsets.back()}));
    return detections;
  }

 private:
  ObjectsReader objects_;
  Field counts_, offsets_;
};

class CroppedReader {
 public:
  explicit CroppedReader(const RowType& type)
      : objects_(type),
        crops_(type.field("crops", at::kLong)),
        offsets_(type.field("offsets", at::kLong)),
        pixels_(type.field("pixels", at::kBool)) {}

  CroppedDetections read(const Row& row, const ImageView& image) const {
    CroppedDetections detections{objects_.read(row, image), {}, {}, nullptr};
    const auto count = static_cast<std::int64_t>(detections.size());
    copy_to(detections.crops, crops_.read(row, {count, 4}));
    copy_to(detections.offsets, offsets_.read(row, {count + 1}));
    detections.pixels = to_pixels(pixels_.read(row, {detections.offsets.back()}));
    return detections;
  }

 private:
  ObjectsReader objects_;
  Field crops_, offsets_, pixels_;
};

// Reads the results of `forward_fixed`: `count` says how many rows are objects. It is on the device, and the other rows
// are padding.
class FixedReader {
 public:
  explicit FixedReader(const RowType& type) : detections_(type), count_(type.field("count", at::kLong)) {}

  std::vector<Detections> read(const c10::IValue& results, std::span<const ImageView> images) const {
    std::vector<at::Tensor> counts;
    for (const c10::IValue& row : results.toListRef()) counts.push_back(count_.read(row.toTupleRef().elements(), {}));
    const at::Tensor on_host = at::stack(counts).cpu();
    std::vector<Detections> detections;
    for (std::size_t i = 0; i < images.size(); ++i) {
      const std::int64_t count = on_host.const_data_ptr<std::int64_t>()[i];
      if (count < 0) {
        throw Error("the network's output is not finite (NaN or infinity): check the weights and the precision");
      }
      std::vector<c10::IValue> row;
      for (const c10::IValue& value : results.toListRef().at(i).toTupleRef().elements()) {
        const at::Tensor& tensor = value.toTensor();
        row.emplace_back(tensor.dim() == 0 ? tensor : tensor.narrow(0, 0, count));
      }
      detections.push_back(detections_.read(row, images[i]));
    }
    return detections;
  }

 private:
  DetectionsReader detections_;
  Field count_;
};

}  // namespace yolact
