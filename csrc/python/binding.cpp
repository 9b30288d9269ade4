// `yolact._runtime`: the C++ SDK for NumPy arrays.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include <yolact/yolact.h>

#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace py = pybind11;

namespace {

using Pixels = py::array_t<std::uint8_t>;

yolact::ChannelOrder channel_order(const std::string& name) {
  for (const auto& [known, order] : {std::pair{"rgb", yolact::ChannelOrder::rgb},
                                     {"bgr", yolact::ChannelOrder::bgr},
                                     {"rgba", yolact::ChannelOrder::rgba},
                                     {"bgra", yolact::ChannelOrder::bgra},
                                     {"gray", yolact::ChannelOrder::gray}}) {
    if (name == known) return order;
  }
  throw yolact::Error("channel_order must be rgb, bgr, rgba, bgra or gray, got '" + name + "'");
}

yolact::SixteenBit to_sixteen_bit(const std::string& name) {
  if (name == "high") return yolact::SixteenBit::high;
  if (name == "scale") return yolact::SixteenBit::scale;
  throw yolact::Error("sixteen_bit must be high or scale, got '" + name + "'");
}

// There may be gaps between rows, as in a part of a larger image, but not between the pixels of a row.
yolact::ImageView to_view(const Pixels& pixels, yolact::ChannelOrder order) {
  const py::ssize_t channels = yolact::channels(order);
  const bool flat = pixels.ndim() == 2 && channels == 1;
  if (!flat && !(pixels.ndim() == 3 && pixels.shape(2) == channels)) {
    throw yolact::Error("an image of this channel order must be [H, W, " + std::to_string(channels) + "]" +
                        (channels == 1 ? " or [H, W]" : ""));
  }
  const bool contiguous_rows = pixels.strides(1) == channels && (flat || pixels.strides(2) == 1);
  if (pixels.size() > 0 && !contiguous_rows) {
    throw yolact::Error("an image's rows must be contiguous: give numpy.ascontiguousarray(image)");
  }
  return {pixels.data(), pixels.shape(0), pixels.shape(1), pixels.strides(0), order};
}

// Accepts only uint8: pybind11 would cast another dtype silently.
Pixels to_pixels(const py::array& image) {
  if (!py::isinstance<Pixels>(image)) throw yolact::Error("an image must be uint8 with values 0-255");
  return py::reinterpret_borrow<Pixels>(image);
}

// Calls `method` with views of the images, without Python's global lock.
template <class Method>
auto segment(const std::vector<py::array>& images, const std::string& order, const Method& method) {
  std::vector<Pixels> pixels;  // keeps the arrays alive
  std::vector<yolact::ImageView> views;
  for (const py::array& image : images) {
    pixels.push_back(to_pixels(image));
    views.push_back(to_view(pixels.back(), channel_order(order)));
  }
  const py::gil_scoped_release release;
  return method(std::span<const yolact::ImageView>(views));
}

yolact::Image to_image(const py::array& array) {
  const Pixels pixels = to_pixels(array);
  const yolact::ImageView view = to_view(pixels, yolact::ChannelOrder::rgb);
  yolact::check(view);
  yolact::Image image{view.height, view.width, std::make_unique<std::uint8_t[]>(view.height * view.width * 3)};
  for (std::int64_t y = 0; y < view.height; ++y) {
    std::copy_n(view.data + y * view.row_stride, view.width * 3, image.pixels.get() + y * view.width * 3);
  }
  return image;
}

Pixels to_array(yolact::Image image) {
  std::uint8_t* data = image.pixels.get();
  const py::capsule owner(image.pixels.release(), [](void* pixels) { delete[] static_cast<std::uint8_t*>(pixels); });
  return Pixels({image.height, image.width, std::int64_t{3}}, data, owner);
}

// A view of `values` that keeps the detections, which own them, alive.
template <class T>
py::array array_of(const py::object& owner, const T* values, std::vector<py::ssize_t> shape) {
  return py::array(py::dtype::of<T>(), std::move(shape), values, owner);
}

// Defines a property that is a view of a field. `values` gives the pointer to the field's values, `shape` their shape.
template <class Class, class Values, class Shape>
void def_array(py::class_<Class>& type, const char* name, const Values& values, const Shape& shape, const char* doc) {
  type.def_property_readonly(name, [=](const py::object& self) {
    const auto& object = self.cast<const Class&>();
    return array_of(self, values(object), shape(object));
  }, doc);
}

using Shape = std::vector<py::ssize_t>;

// Defines a class with the fields that all kinds of detections have.
template <class Class>
py::class_<Class> def_objects(py::module_& m, const char* name, const char* doc) {
  py::class_<Class> type(m, name, doc);
  const auto one_each = [](const Class& objects) { return Shape{py::ssize_t(objects.size())}; };
  type.def("__len__", &Class::size).def_readonly("height", &Class::height).def_readonly("width", &Class::width);
  def_array(type, "boxes", [](const Class& objects) {
    return reinterpret_cast<const float*>(objects.boxes.data());
  }, [](const Class& objects) { return Shape{py::ssize_t(objects.size()), 4}; }, "[N, 4] float32 xyxy in pixels.");
  def_array(type, "scores", [](const Class& objects) { return objects.scores.data(); }, one_each, "[N] float32, 0-1.");
  def_array(type, "labels", [](const Class& objects) { return objects.labels.data(); }, one_each,
            "[N] int64, indices into the class names.");
  def_array(type, "mask_scores", [](const Class& objects) { return objects.mask_scores.data(); }, one_each,
            "[N] float32, not negative.");
  return type;
}

template <class T>
Shape length_of(const std::vector<T>& values) {
  return {py::ssize_t(values.size())};
}

}  // namespace

PYBIND11_MODULE(_runtime, m) {
  using yolact::CroppedDetections;
  using yolact::Detections;
  using yolact::EncodedDetections;
  using yolact::Segmenter;

  m.doc() = "The C++ runtime. A program without Python that uses it computes the same.";
  m.attr("__version__") = yolact::version();
  py::register_exception<yolact::Error>(m, "Error", PyExc_ValueError);

  auto masks = def_objects<Detections>(m, "Detections",
                                       "N objects of one image of H x W pixels, in descending order of scores.");
  def_array(masks, "masks", [](const Detections& objects) {
    return reinterpret_cast<const bool*>(objects.masks.get());
  }, [](const Detections& objects) {
    return Shape{py::ssize_t(objects.size()), py::ssize_t(objects.height), py::ssize_t(objects.width)};
  }, "[N, H, W] bool.");

  auto runs = def_objects<EncodedDetections>(m, "EncodedDetections", "Detections with masks as COCO's run lengths.");
  def_array(runs, "counts", [](const EncodedDetections& objects) { return objects.counts.data(); },
            [](const EncodedDetections& objects) { return length_of(objects.counts); },
            "[R] int64: the run lengths of all masks.");
  def_array(runs, "offsets", [](const EncodedDetections& objects) { return objects.offsets.data(); },
            [](const EncodedDetections& objects) { return length_of(objects.offsets); },
            "[N + 1] int64: the runs of mask n are counts[offsets[n]:offsets[n + 1]].");

  auto crops = def_objects<CroppedDetections>(m, "CroppedDetections", "Detections with masks as crops.");
  def_array(crops, "pixels",
            [](const CroppedDetections& objects) { return reinterpret_cast<const bool*>(objects.pixels.get()); },
            [](const CroppedDetections& objects) { return Shape{py::ssize_t(objects.offsets.back())}; },
            "[P] bool: the pixels of all crops, one crop after the other, each row by row.");
  def_array(crops, "crops", [](const CroppedDetections& objects) {
    return reinterpret_cast<const std::int64_t*>(objects.crops.data());
  }, [](const CroppedDetections& objects) {
    return Shape{py::ssize_t(objects.size()), 4};
  }, "[N, 4] int64 xyxy in pixels, x2 and y2 exclusive: where the crops lie.");
  def_array(crops, "offsets", [](const CroppedDetections& objects) { return objects.offsets.data(); },
            [](const CroppedDetections& objects) { return length_of(objects.offsets); },
            "[N + 1] int64: crop n is pixels[offsets[n]:offsets[n + 1]].");

  py::class_<Segmenter>(m, "Segmenter", "A model that finds the objects in images.")
      .def(py::init([](const std::filesystem::path& model, const std::string& device, const std::string& precision,
                       bool cuda_graph) {
    return std::make_unique<Segmenter>(model, yolact::SegmenterOptions{device, precision, cuda_graph});
  }),
           py::arg("model"), py::arg("device") = "cpu", py::arg("precision") = "", py::arg("cuda_graph") = false,
           py::call_guard<py::gil_scoped_release>())
      .def("segment",
           [](const Segmenter& self, const py::array& image, const std::string& order) {
    return std::move(segment({image}, order, [&](auto views) { return self.segment(views); }).front());
  }, py::arg("image"), py::arg("channel_order") = "rgb",
           "Finds the objects in a uint8 image [H, W, channels]; a gray image may also be [H, W].")
      .def("segment_batch",
           [](const Segmenter& self, const std::vector<py::array>& images, const std::string& order) {
    return segment(images, order, [&](auto views) { return self.segment(views); });
  }, py::arg("images"), py::arg("channel_order") = "rgb",
           "Finds the objects in several images, in one pass through the network.")
      .def("segment_encoded_batch",
           [](const Segmenter& self, const std::vector<py::array>& images, const std::string& order) {
    return segment(images, order, [&](auto views) { return self.segment_encoded(views); });
  }, py::arg("images"), py::arg("channel_order") = "rgb", "Like segment_batch, with masks as run lengths.")
      .def("segment_cropped_batch",
           [](const Segmenter& self, const std::vector<py::array>& images, const std::string& order) {
    return segment(images, order, [&](auto views) { return self.segment_cropped(views); });
  }, py::arg("images"), py::arg("channel_order") = "rgb", "Like segment_batch, with masks as crops.")
      .def_property("score_threshold", &Segmenter::score_threshold, &Segmenter::set_score_threshold)
      .def_property("iou_threshold", &Segmenter::iou_threshold, &Segmenter::set_iou_threshold)
      .def_property("max_detections", &Segmenter::max_detections, &Segmenter::set_max_detections)
      .def_property_readonly("class_names", &Segmenter::class_names)
      .def_property_readonly("preset", &Segmenter::preset)
      .def_property_readonly("image_size", &Segmenter::image_size)
      .def_property_readonly("precision", &Segmenter::precision)
      .def_property_readonly("model_version", &Segmenter::model_version);

  m.def("read_image",
        [](const std::filesystem::path& path, bool ignore_exif, const std::string& sixteen_bit) {
    return to_array(yolact::read_image(path, {ignore_exif, to_sixteen_bit(sixteen_bit)}));
  }, py::arg("path"), py::arg("ignore_exif") = false, py::arg("sixteen_bit") = "high",
        "Reads a JPEG or PNG file as uint8 RGB [H, W, 3].");
  m.def("draw",
        [](const py::array& array, const Detections& detections, const std::vector<std::string>& class_names) {
    yolact::Image image = to_image(array);
    yolact::draw(image, detections, class_names);
    return to_array(std::move(image));
  }, py::arg("image"), py::arg("detections"), py::arg("class_names"),
        "Returns a copy of the image with the detections drawn onto it.");
  m.def("class_color", &yolact::class_color, py::arg("label"));
  m.def("encode_mask", [](const py::array_t<bool, py::array::c_style>& mask) {
    if (mask.ndim() != 2 || mask.size() == 0) throw yolact::Error("a mask must be [H, W] and not empty");
    return yolact::encode_mask({reinterpret_cast<const std::uint8_t*>(mask.data()), std::size_t(mask.size())},
                               mask.shape(0), mask.shape(1));
  }, py::arg("mask"), "Encodes a bool mask [H, W] as the counts of COCO's compressed run-length encoding.");
}
