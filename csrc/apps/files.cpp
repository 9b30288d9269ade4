#include "files.h"

#include <algorithm>
#include <cctype>
#include <set>
#include <string>
#include <system_error>

#include <yolact/error.h>

namespace filesystem = std::filesystem;

namespace {

bool is_image_name(const filesystem::path& path) {
  std::string suffix = path.extension().string();
  std::transform(suffix.begin(), suffix.end(), suffix.begin(), [](unsigned char c) { return std::tolower(c); });
  return suffix == ".jpg" || suffix == ".jpeg" || suffix == ".png";
}

// The file that a path leads to, also through symbolic links; the path itself if that cannot be found out.
filesystem::path resolved(const filesystem::path& path) {
  std::error_code failure;
  filesystem::path result = filesystem::weakly_canonical(path, failure);
  return failure ? path : result;
}

}  // namespace

Paths images_in(const Paths& sources) {
  Paths images;
  for (const filesystem::path& source : sources) {
    std::error_code failure;
    if (!filesystem::is_directory(source, failure)) {
      images.push_back(source);
      continue;
    }
    Paths inside;
    filesystem::directory_iterator entry(source, failure);
    while (!failure && entry != filesystem::directory_iterator()) {
      if (is_image_name(entry->path())) inside.push_back(entry->path());
      entry.increment(failure);
    }
    if (failure) throw yolact::Error(source.string() + ": the folder cannot be read: " + failure.message());
    if (inside.empty()) throw yolact::Error(source.string() + ": there is no image in this folder (.jpeg, .jpg, .png)");
    std::sort(inside.begin(), inside.end());
    images.insert(images.end(), inside.begin(), inside.end());
  }
  return images;
}

Paths picture_paths(const Paths& images, const filesystem::path& folder) {
  std::set<std::string> taken;
  Paths pictures;
  for (const filesystem::path& image : images) {
    const std::string stem = image.stem().string();
    std::string name = stem;
    for (int number = 1; !taken.insert(name).second; ++number) name = stem + "_" + std::to_string(number);
    pictures.push_back(folder / (name + ".png"));
  }
  return pictures;
}

void check_distinct(const Paths& inputs, const Paths& outputs) {
  std::set<filesystem::path> taken;
  for (const filesystem::path& input : inputs) taken.insert(resolved(input));
  for (const filesystem::path& output : outputs) {
    if (taken.contains(resolved(output))) {
      throw yolact::Error(output.string() + " is an input: choose another place for the output");
    }
  }
}
