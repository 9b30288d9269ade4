// The files that yolact-segment reads and writes.
#pragma once

#include <filesystem>
#include <vector>

using Paths = std::vector<std::filesystem::path>;

// The files among `sources` and the images in the folders among them, in order. Throws yolact::Error if a folder cannot
// be read or holds no image.
Paths images_in(const Paths& sources);

// The picture of each image: its name with .png in `folder`, with a number where two share a name.
Paths picture_paths(const Paths& images, const std::filesystem::path& folder);

// Throws yolact::Error if one of `outputs` is one of `inputs`.
void check_distinct(const Paths& inputs, const Paths& outputs);
