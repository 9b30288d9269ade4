// For test programs: CHECK and CHECK_ERROR count failures, and main returns `result()`.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <string>

#include <unistd.h>

#include <yolact/error.h>

inline int failures = 0;

inline void report(const char* file, int line, const std::string& message) {
  std::cerr << file << ":" << line << ": " << message << "\n";
  ++failures;
}

#define CHECK(condition) \
  if (!(condition)) report(__FILE__, __LINE__, #condition)

// Checks that `expression` throws yolact::Error with a message of one line that contains `part`.
#define CHECK_ERROR(expression, part)                                                       \
  try {                                                                                     \
    static_cast<void>(expression);                                                          \
    report(__FILE__, __LINE__, "no error from " #expression);                               \
  } catch (const yolact::Error& error) {                                                    \
    const std::string message = error.what();                                               \
    if (message.find(part) == std::string::npos || message.find('\n') != std::string::npos) \
      report(__FILE__, __LINE__, "the error was: " + message);                              \
  }

inline int result() {
  std::cerr << (failures == 0 ? "all checks passed\n" : std::to_string(failures) + " checks failed\n");
  return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

// A folder that lasts as long as the object.
class TemporaryFolder {
 public:
  TemporaryFolder() : path_(std::filesystem::temp_directory_path() / ("yolact-test-" + std::to_string(getpid()))) {
    std::filesystem::create_directories(path_);
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};
