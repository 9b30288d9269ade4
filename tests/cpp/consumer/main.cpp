// Segments a red picture with the model given.
#include <yolact/yolact.h>

#include <cstdint>
#include <iostream>
#include <vector>

int main(int, char** arguments) {
  try {
    yolact::Segmenter segmenter(arguments[1]);
    std::vector<std::uint8_t> pixels;
    for (int i = 0; i < 4 * 6; ++i) pixels.insert(pixels.end(), {200, 10, 10});
    const yolact::Detections found = segmenter.segment({pixels.data(), 4, 6, 6 * 3, yolact::ChannelOrder::rgb});
    std::cout << found.size() << " " << segmenter.class_names().at(found.labels.at(0)) << "\n";
  } catch (const yolact::Error& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
