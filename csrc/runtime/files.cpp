// The twin of yolact/files.py: both remove what the other leaves.
#include <yolact/files.h>

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <system_error>
#include <utility>
#include <vector>

namespace filesystem = std::filesystem;

namespace yolact {
namespace {

constexpr std::size_t longest_name = 255;  // bytes, on all file systems of Linux
constexpr int looked_at = 10'000;  // entries of a folder, so that the search takes a few milliseconds in any folder
constexpr mode_t permissions = 0777;

[[noreturn]] void fail(int error) { throw std::system_error(error, std::generic_category()); }

// The result of a call of the system. It is made again if a signal interrupts it.
template <class Call>
auto called(const Call& call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  if (result < 0) fail(errno);
  return result;
}

class Descriptor {
 public:
  explicit Descriptor(int number) : number_(number) {}
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Descriptor& operator=(Descriptor&&) = delete;
  ~Descriptor() {
    if (number_ >= 0) ::close(number_);
  }

  operator int() const { return number_; }

  // The system may tell only here that something could not be written.
  void close() {
    if (::close(std::exchange(number_, -1)) < 0 && errno != EINTR) fail(errno);
  }

 private:
  int number_;
};

std::string advice(int error) {
  switch (error) {
    case ENOSPC:
    case EDQUOT: return ": free space there, or choose another folder";
    case EFBIG: return ": the file system or `ulimit -f` allows no larger file";
    case EACCES:
    case EPERM: return ": change the permissions, or choose another folder";
    case EROFS: return ": choose another folder";
    case ENAMETOOLONG: return ": choose a shorter name";
    case EISDIR: return ": give the name of a file in it";
    case ENOTDIR: return ": a part of the path is a file";
    case EEXIST: return ": this is a file";
    default: return "";
  }
}

filesystem::path folder_of(const filesystem::path& path) {
  return path.has_parent_path() ? path.parent_path() : filesystem::path(".");
}

bool is_folder(const filesystem::path& path) {
  std::error_code ignored;
  return filesystem::is_directory(path, ignored);
}

Error error_of(const std::string& name, int error, const std::string& verb) {
  const std::string problem = name + ": cannot be " + verb + ": ";
  if (const filesystem::path folder = folder_of(name); error == ENOENT && !is_folder(folder)) {
    return Error(problem + "the folder " + folder.string() + " does not exist: create it first");
  }
  const std::string reason = error == EISDIR ? "this is a folder" : std::generic_category().message(error);
  return Error(problem + reason + advice(error));
}

// Turns an error of the system in `body` into an Error about `path`.
template <class Body>
void reported(const filesystem::path& path, const std::string& verb, const Body& body) {
  try {
    body();
  } catch (const std::system_error& error) {
    throw error_of(path.string(), error.code().value(), verb);
  }
}

bool is_same_file(const struct stat& a, const struct stat& b) { return a.st_dev == b.st_dev && a.st_ino == b.st_ino; }

std::optional<int> number_in(std::string_view digits) {
  const bool is_number = digits.find_first_not_of("0123456789") == std::string_view::npos;
  if (!is_number || digits.empty() || digits.size() > 9) return std::nullopt;
  return std::stoi(std::string(digits));
}

// The descriptor that a path such as /dev/stdout names.
std::optional<int> open_file_named(const filesystem::path& path) {
  const std::string_view name = path.native();
  if (name == "/dev/stdin") return STDIN_FILENO;
  if (name == "/dev/stdout") return STDOUT_FILENO;
  if (name == "/dev/stderr") return STDERR_FILENO;
  for (const std::string_view folder : {"/dev/fd/", "/proc/self/fd/"}) {
    if (name.starts_with(folder)) return number_in(name.substr(folder.size()));
  }
  return std::nullopt;
}

// What a path leads to.
struct Target {
  filesystem::path file;                // links are followed
  std::optional<struct stat> existing;  // of the file, if there is one
  std::optional<int> open_file;         // its descriptor, if the path names an open file of this process
  bool direct = false;                  // whether it is written to directly
};

Target target_of(const filesystem::path& path) {
  Target target{path, {}, open_file_named(path), false};
  if (target.open_file) {
    called([&] { return ::fcntl(*target.open_file, F_GETFD); });
    target.direct = true;
    return target;
  }
  struct stat status{};
  if (::stat(path.c_str(), &status) == 0) {
    if (S_ISDIR(status.st_mode)) fail(EISDIR);
    target.existing = status;
    target.direct = !S_ISREG(status.st_mode);
    if (target.direct) return target;
  } else if (errno != ENOENT) {
    fail(errno);
  }
  // This ends: `stat` refuses links that lead to each other.
  while (filesystem::is_symlink(filesystem::symlink_status(target.file))) {
    target.file = target.file.parent_path() / filesystem::read_symlink(target.file);
  }
  if (!target.existing && !is_folder(folder_of(target.file))) fail(ENOENT);
  return target;
}

// The place of a file until it is whole: `.NAME.PROCESS.part` beside it, with a long name cut short.
filesystem::path temporary_place(const filesystem::path& file) {
  std::string ending(1, '.'), name(1, '.');
  ending.append(std::to_string(getpid())).append(".part");
  name.append(file.filename().string());
  name.resize(std::min(name.size(), longest_name - ending.size()));
  return file.parent_path() / (name + ending);
}

// Opens a temporary file and locks it as long as it is open, where the file system can.
Descriptor open_locked(const filesystem::path& path) {
  while (true) {
    Descriptor file(called([&] { return ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666); }));
    while (::flock(file, LOCK_EX) < 0 && errno == EINTR) continue;
    struct stat ours{}, named{};
    called([&] { return ::fstat(file, &ours); });
    if (::stat(path.c_str(), &named) == 0 && is_same_file(ours, named)) return file;
    // Another machine took it for a leftover before it was locked.
  }
}

void check_place(const filesystem::path& temporary) {
  Descriptor file = open_locked(temporary);
  called([&] { return ::unlink(temporary.c_str()); });
  file.close();
}

bool is_another_living_process(pid_t number) {
  // The process that wrote the file had our own number, perhaps in another container.
  return number != getpid() && (::kill(number, 0) == 0 || errno != ESRCH);
}

// The number of the process in the name of a temporary file, or nothing if it is no such name.
std::optional<pid_t> process_in(std::string_view name) {
  constexpr std::string_view ending = ".part";
  if (!name.starts_with('.') || !name.ends_with(ending)) return std::nullopt;
  name.remove_suffix(ending.size());
  const auto dot = name.rfind('.');
  if (dot == std::string_view::npos || dot < 2) return std::nullopt;
  return number_in(name.substr(dot + 1));
}

void remove_unless_locked(const filesystem::path& path) {
  std::error_code ignored;
  const bool folder = filesystem::is_directory(filesystem::symlink_status(path, ignored));
  const int descriptor = ::open(path.c_str(), (folder ? O_RDONLY : O_RDWR) | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (descriptor < 0) return;
  const Descriptor closed_at_the_end(descriptor);
  if (::flock(descriptor, LOCK_EX | LOCK_NB) == 0) filesystem::remove_all(path, ignored);
}

// Removes the temporary files and folders that dead processes left in a folder. A process is dead if it does not live
// on this machine and has no lock on its file. The lock is there because a process of another machine or container may
// write into the same folder.
void remove_leftovers(const filesystem::path& folder) {
  std::error_code failure;
  std::vector<filesystem::path> leftovers;
  filesystem::directory_iterator entry(folder, failure);
  for (int i = 0; !failure && entry != filesystem::directory_iterator() && i < looked_at; ++i) {
    const auto process = process_in(entry->path().filename().string());
    if (process && !is_another_living_process(*process)) leftovers.push_back(entry->path());
    entry.increment(failure);
  }
  for (const filesystem::path& leftover : leftovers) remove_unless_locked(leftover);
}

void write_all(int file, std::string_view content) {
  while (!content.empty()) {
    content.remove_prefix(called([&] { return ::write(file, content.data(), content.size()); }));
  }
}

void write_directly(const Target& target, std::string_view content) {
  Descriptor file(called(
      [&] { return target.open_file ? ::dup(*target.open_file) : ::open(target.file.c_str(), O_WRONLY | O_CLOEXEC); }));
  write_all(file, content);
  file.close();
}

void keep_permissions(int file, const struct stat& old) {
  struct stat status{};
  called([&] { return ::fstat(file, &status); });
  if ((status.st_mode & permissions) == (old.st_mode & permissions)) return;
  called([&] { return ::fchmod(file, old.st_mode & permissions); });
}

}  // namespace

void write_file(const filesystem::path& path, std::string_view content) {
  reported(path, "written", [&] {
    const Target target = target_of(path);
    if (target.direct) return write_directly(target, content);
    remove_leftovers(folder_of(target.file));
    const filesystem::path temporary = temporary_place(target.file);
    Descriptor file = open_locked(temporary);
    try {
      called([&] { return ::ftruncate(file, 0); });
      if (target.existing) keep_permissions(file, *target.existing);
      write_all(file, content);
      called([&] { return ::fsync(file); });
      const Descriptor still_locked(called([&] { return ::dup(file); }));
      file.close();
      called([&] { return ::rename(temporary.c_str(), target.file.c_str()); });
    } catch (...) {
      ::unlink(temporary.c_str());
      throw;
    }
  });
}

void check_writable(const filesystem::path& path) {
  reported(path, "written", [&] {
    const Target target = target_of(path);
    if (target.direct) return;
    check_place(temporary_place(target.file));
  });
}

void check_folder_writable(const filesystem::path& folder) {
  reported(folder, "written", [&] { check_place(temporary_place(folder / "check")); });
}

void make_folder(const filesystem::path& path) {
  reported(path, "made", [&] {
    std::error_code failure;
    filesystem::create_directories(path, failure);
    if (is_folder(path)) return;
    fail(filesystem::exists(filesystem::symlink_status(path)) ? EEXIST : failure.value());
  });
}

Error write_error(const std::string& name, int error) { return error_of(name, error, "written"); }

}  // namespace yolact
