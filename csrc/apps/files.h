// Which files yolact-segment reads and writes.
#pragma once

#include <filesystem>
#include <functional>
#include <vector>

using Paths = std::vector<std::filesystem::path>;

// The files named, and those in the folders named, in order. Throws yolact::Error if a folder holds no image.
Paths images_in(const Paths& sources);

// Where each image's picture goes: its name with .png, numbered where two share a name.
Paths picture_paths(const Paths& images, const std::filesystem::path& folder);

// Throws yolact::Error if one of `outputs` is one of `inputs`.
void check_distinct(const Paths& inputs, const Paths& outputs);

// Has `write` write to a temporary path beside `path`, which then becomes `path`, so that no reader meets half a file.
void write_whole(const std::filesystem::path& path, const std::function<void(const std::filesystem::path&)>& write);
