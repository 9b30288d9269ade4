// Writes model files as `yolact export` does. Their detector needs no weights: its objects are the three channels of an
// image, in descending order of their average. The mask of an object is the pixels that are bright in its channel.
#include <torch/csrc/jit/frontend/resolver.h>
#include <torch/script.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

namespace {

// The named tuples of yolact/models/detections.py.
const std::map<std::string, std::string> named_tuples = {
    {"Detections", "boxes scores labels masks mask_scores"},
    {"EncodedDetections", "boxes scores labels mask_scores height width counts offsets"},
    {"CroppedDetections", "boxes scores labels mask_scores height width pixels crops offsets"},
    {"FixedDetections", "boxes scores labels masks mask_scores count"},
};

constexpr const char* detector = R"(
def channels_of(self, image: Tensor) -> FixedDetections:
    means = image.float().mean(dim=[0, 1]) * self.gain / 255.0
    scores, labels = means.sort(stable=True, dim=0, descending=True)
    boxes = torch.zeros([3, 4], device=image.device)
    boxes[:, 2] = float(image.size(1))
    boxes[:, 3] = float(image.size(0))
    count = (scores > self.score_threshold).sum().clamp(max=self.max_detections)
    return FixedDetections(
        boxes=boxes,
        scores=scores,
        labels=labels,
        masks=image.permute(2, 0, 1).index_select(0, labels) > 127,
        mask_scores=scores * 0.5,
        count=count.masked_fill(~scores.isfinite().all(), -1),
    )

def padded(self, values: Tensor) -> Tensor:
    rows = values.new_zeros([self.max_detections] + values.shape[1:])
    rows[:3] = values[:self.max_detections]
    return rows

def forward_fixed(self, images: List[Tensor]) -> List[FixedDetections]:
    results: List[FixedDetections] = []
    for image in images:
        channels = self.channels_of(image)
        results.append(FixedDetections(
            boxes=self.padded(channels.boxes),
            scores=self.padded(channels.scores),
            labels=self.padded(channels.labels),
            masks=self.padded(channels.masks),
            mask_scores=self.padded(channels.mask_scores),
            count=channels.count,
        ))
    return results

def forward_batch(self, images: List[Tensor]) -> List[Detections]:
    results: List[Detections] = []
    for image in images:
        channels = self.channels_of(image)
        n = int(channels.count)
        assert n >= 0, "the network's output is not finite"
        results.append(Detections(
            boxes=channels.boxes[:n],
            scores=channels.scores[:n],
            labels=channels.labels[:n],
            masks=channels.masks[:n],
            mask_scores=channels.mask_scores[:n],
        ))
    return results

def forward_encoded(self, images: List[Tensor]) -> List[EncodedDetections]:
    results: List[EncodedDetections] = []
    for found in self.forward_batch(images):
        height, width = found.masks.size(1), found.masks.size(2)
        counts: List[int] = []
        offsets = [0]
        for i in range(len(found.masks)):
            pixels = found.masks[i].t().flatten()
            changes: List[int] = torch.cat([pixels[:1], pixels[1:] != pixels[:-1]]).nonzero().flatten().tolist()
            for begin, end in zip([0] + changes, changes + [height * width]):
                counts.append(end - begin)
            offsets.append(len(counts))
        results.append(EncodedDetections(
            boxes=found.boxes,
            scores=found.scores,
            labels=found.labels,
            mask_scores=found.mask_scores,
            height=height,
            width=width,
            counts=torch.tensor([0] + counts)[1:],  # torch warns about an empty list
            offsets=torch.tensor(offsets),
        ))
    return results

def forward_cropped(self, images: List[Tensor]) -> List[CroppedDetections]:
    results: List[CroppedDetections] = []
    for found in self.forward_batch(images):
        crops = torch.zeros([len(found.masks), 4]).long()
        pixels = [found.masks.flatten()[:0]]
        offsets = [0]
        for i in range(len(found.masks)):
            mask = found.masks[i]
            if bool(mask.any()):
                columns, rows = mask.any(0).nonzero(), mask.any(1).nonzero()
                crops[i, 0] = columns.min()
                crops[i, 1] = rows.min()
                crops[i, 2] = columns.max() + 1
                crops[i, 3] = rows.max() + 1
            crop = mask[int(crops[i, 1]):int(crops[i, 3]), int(crops[i, 0]):int(crops[i, 2])]
            pixels.append(crop.flatten())
            offsets.append(offsets[-1] + crop.numel())
        results.append(CroppedDetections(
            boxes=found.boxes,
            scores=found.scores,
            labels=found.labels,
            mask_scores=found.mask_scores,
            height=found.masks.size(1),
            width=found.masks.size(2),
            pixels=torch.cat(pixels),
            crops=crops,
            offsets=torch.tensor(offsets),
        ))
    return results
)";

// How a file differs from a correct one.
struct Differences {
  double gain = 1.0;
  int format = YOLACT_FILE_FORMAT;  // 0: the file has no format number
  bool reversed_fields = false;
  std::string replaced = {}, replacement = {};  // in the code and in the names of fields
};

std::string replace_all(std::string text, const Differences& differences) {
  const std::string& replaced = differences.replaced;
  if (replaced.empty()) return text;
  for (auto at = text.find(replaced); at != std::string::npos; at = text.find(replaced, at)) {
    text.replace(at, replaced.size(), differences.replacement);
    at += differences.replacement.size();
  }
  return text;
}

// Gives TorchScript's compiler the types of the named tuples.
class NamedTuples final : public torch::jit::NativeResolver {
 public:
  explicit NamedTuples(const Differences& differences) {
    for (const auto& [name, text] : named_tuples) {
      std::istringstream stream(replace_all(text, differences));
      std::vector<std::string> fields;
      for (std::string field; stream >> field;) fields.push_back(field);
      if (differences.reversed_fields) std::ranges::reverse(fields);
      std::vector<c10::TypePtr> types;
      for (const std::string& field : fields) {
        const bool number = field == "height" || field == "width";
        types.push_back(number ? c10::TypePtr(c10::IntType::get()) : c10::TypePtr(c10::TensorType::get()));
      }
      types_[name] = c10::TupleType::createNamed("__torch__.yolact.models.detections." + name, fields, types);
    }
  }

  std::shared_ptr<torch::jit::SugaredValue> resolveValue(const std::string& name, torch::jit::GraphFunction& function,
                                                         const torch::jit::SourceRange& place) override {
    const auto type = types_.find(name);
    if (type == types_.end()) return NativeResolver::resolveValue(name, function, place);
    return std::make_shared<torch::jit::NamedTupleConstructor>(type->second);
  }

  c10::TypePtr resolveType(const std::string& name, const torch::jit::SourceRange&) override {
    const auto type = types_.find(name);
    return type == types_.end() ? nullptr : type->second;
  }

 private:
  std::map<std::string, c10::TupleTypePtr> types_;
};

void write_model(const std::filesystem::path& path, const Differences& differences = {}) {
  torch::jit::Module module("Detector");
  module.register_attribute("gain", c10::FloatType::get(), differences.gain);
  module.register_attribute("score_threshold", c10::FloatType::get(), 0.05);
  module.register_attribute("iou_threshold", c10::FloatType::get(), 0.5);
  module.register_attribute("max_detections", c10::IntType::get(), 100);
  module.register_attribute("class_names", c10::ListType::ofStrings(),
                            c10::List<std::string>({"red", "green", "blue"}));
  module.define(replace_all(detector, differences), std::make_shared<NamedTuples>(differences));
  torch::jit::ExtraFilesMap metadata = {
      {"yolact_version", "9.8.7"}, {"preset", "colors"}, {"precision", "fp32"}, {"image_size", "32"}};
  if (differences.format != 0) metadata["yolact_format"] = std::to_string(differences.format);
  module.save(path.string(), metadata);
}

}  // namespace

int main(int, char** arguments) {
  const std::filesystem::path folder = arguments[1];
  write_model(folder / "colors.pt");
  write_model(folder / "reversed_fields.pt", {.reversed_fields = true});
  write_model(folder / "nan.pt", {.gain = std::numeric_limits<double>::quiet_NaN()});
  write_model(folder / "newer.pt", {.format = YOLACT_FILE_FORMAT + 1});
  write_model(folder / "foreign.pt", {.format = 0});
  write_model(folder / "no_method.pt", {.replaced = "forward_cropped", .replacement = "forward_clipped"});
  write_model(folder / "no_field.pt", {.replaced = "offsets", .replacement = "ends"});
  write_model(folder / "wrong_dtype.pt",
              {.replaced = "channels.labels[:n]", .replacement = "channels.labels[:n].int()"});
  write_model(folder / "wrong_shape.pt", {.replaced = "tensor(offsets)", .replacement = "tensor(offsets)[1:]"});
  std::ofstream(folder / "text.pt") << "no model";
  std::ifstream whole(folder / "colors.pt", std::ios::binary);
  std::string start(1000, '\0');
  whole.read(start.data(), static_cast<std::streamsize>(start.size()));
  std::ofstream(folder / "truncated.pt", std::ios::binary) << start;
}
