#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include <yolact/error.h>
#include <yolact/export.h>

namespace yolact {

/// Writes a file. It has all of the content in the end, or stays as it was if that fails.
///
/// Until then it is a temporary file beside `path`. Those that dead processes left in that folder are removed. The file
/// is on the disk before it gets its name, so it is whole after a power failure too, and an error that the system tells
/// late is noticed. A link is followed, and an existing file keeps its permissions. A device or a pipe is written
/// directly, and so is an open file of this process, such as /dev/stdout. Flush your own stream to it first.
///
/// Throws `Error` if the file cannot be written. A program that does not ignore the signals SIGXFSZ (the file is larger
/// than the system allows) and SIGPIPE (nobody reads the pipe) is ended by them.
YOLACT_API void write_file(const std::filesystem::path& path, std::string_view content);

/// Throws `Error` if `path` cannot be written now. Call it before long work whose result goes there.
YOLACT_API void check_writable(const std::filesystem::path& path);

/// Throws `Error` if no file can be written into this folder now.
YOLACT_API void check_folder_writable(const std::filesystem::path& folder);

/// Makes a folder, and those above it, where they are missing. Throws `Error` if that cannot be done.
YOLACT_API void make_folder(const std::filesystem::path& path);

/// The error of writing to `name`, with what the system said, a value of `errno`, in words.
YOLACT_API Error write_error(const std::string& name, int error);

}  // namespace yolact
