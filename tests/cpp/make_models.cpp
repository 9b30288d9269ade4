// Writes model files as `yolact export` does, with a detector in them that needs no weights: an image is one object of
// the channel that is the brightest on average, with the score of that average.
#include <torch/script.h>

#include <filesystem>
#include <fstream>
#include <limits>
#include <string>

namespace {

constexpr const char* detector = R"(
def forward_batch(self, images: List[Tensor]) -> List[Tuple[Tensor, Tensor, Tensor, Tensor]]:
    results: List[Tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for image in images:
        means = image.float().mean(dim=[0, 1]) * self.gain / 255.0
        assert bool(torch.isfinite(means).all()), "the network's output is not finite"
        score, label = means.max(0)
        count = 1 if float(score) > self.score_threshold and self.max_detections > 0 else 0
        box = torch.tensor([[0.0, 0.0, float(image.size(1)), float(image.size(0))]])
        mask = (image.float()[:, :, int(label)] > 127)[None]
        results.append((box[:count], score[None][:count], label[None][:count], mask[:count]))
    return results
)";

void write_model(const std::filesystem::path& path, double gain, const std::string& format) {
  torch::jit::Module module("Detector");
  module.register_attribute("gain", c10::FloatType::get(), gain);
  module.register_attribute("score_threshold", c10::FloatType::get(), 0.05);
  module.register_attribute("iou_threshold", c10::FloatType::get(), 0.5);
  module.register_attribute("max_detections", c10::IntType::get(), 100);
  module.register_attribute("class_names", c10::ListType::ofStrings(),
                            c10::List<std::string>({"red", "green", "blue"}));
  module.define(detector);
  torch::jit::ExtraFilesMap metadata;
  if (!format.empty()) {
    metadata = {{"yolact_format", format}, {"yolact_version", "9.8.7"}, {"preset", "colors"}, {"image_size", "32"}};
  }
  module.save(path.string(), metadata);
}

}  // namespace

int main(int, char** arguments) {
  const std::filesystem::path folder = arguments[1];
  write_model(folder / "colors.pt", 1.0, "1");
  write_model(folder / "nan.pt", std::numeric_limits<double>::quiet_NaN(), "1");
  write_model(folder / "newer.pt", 1.0, "5");
  write_model(folder / "foreign.pt", 1.0, "");
  std::ofstream(folder / "text.pt") << "no model";
  std::ifstream whole(folder / "colors.pt", std::ios::binary);
  std::string start(1000, '\0');
  whole.read(start.data(), static_cast<std::streamsize>(start.size()));
  std::ofstream(folder / "truncated.pt", std::ios::binary) << start;
}
