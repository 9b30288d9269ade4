// Tests of writing files, with full disks, and with calls of the system that fail in turn. pytest has the same tests
// for Python's writers.
#include <yolact/files.h>
#include <yolact/image.h>

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdarg>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <string>
#include <thread>

#include "check.h"

namespace filesystem = std::filesystem;

namespace {

using Contents = std::map<std::string, std::string>;

// The call of the system that fails: the first, second … of those that change a temporary file in `folder`. 0: none.
struct {
  std::string folder;
  int number = 0, count = 0, error = 0;
} fault;

bool fails(const std::string& path) {
  const bool concerned = path.starts_with(fault.folder) && path.find(".part") != std::string::npos;
  if (fault.number == 0 || !concerned || ++fault.count != fault.number) return false;
  errno = fault.error;
  return true;
}

bool fails(int descriptor) {
  const int before = errno;
  std::array<char, 4096> path{};
  const auto size = ::readlink(("/proc/self/fd/" + std::to_string(descriptor)).c_str(), path.data(), path.size());
  errno = before;
  return size > 0 && fails(std::string(path.data(), static_cast<std::size_t>(size)));
}

template <class Function>
Function* system_function(const char* name) {
  return reinterpret_cast<Function*>(::dlsym(RTLD_NEXT, name));
}

}  // namespace

// These take the place of the system's functions in the library too.
#define REPLACED extern "C" __attribute__((visibility("default")))

REPLACED int open(const char* path, int flags, ...) {
  std::va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = (flags & O_CREAT) ? va_arg(arguments, mode_t) : 0;
  va_end(arguments);
  static const auto real = system_function<int(const char*, int, ...)>("open");
  return (flags & O_CREAT) && fails(path) ? -1 : real(path, flags, mode);
}

REPLACED int ftruncate(int file, off_t size) noexcept {
  static const auto real = system_function<int(int, off_t)>("ftruncate");
  return fails(file) ? -1 : real(file, size);
}

REPLACED int fchmod(int file, mode_t mode) noexcept {
  static const auto real = system_function<int(int, mode_t)>("fchmod");
  return fails(file) ? -1 : real(file, mode);
}

REPLACED ssize_t write(int file, const void* data, size_t size) {
  static const auto real = system_function<ssize_t(int, const void*, size_t)>("write");
  if (!fails(file)) return real(file, data, size);
  const int error = errno;
  const ssize_t written = error == EINTR ? 0 : real(file, data, size / 2);
  errno = error;
  return error == 0 ? written : -1;
}

REPLACED int fsync(int file) {
  static const auto real = system_function<int(int)>("fsync");
  return fails(file) ? -1 : real(file);
}

REPLACED int close(int file) {
  static const auto real = system_function<int(int)>("close");
  const bool failed = fails(file);
  const int error = errno, result = real(file);
  if (failed) errno = error;
  return failed ? -1 : result;
}

REPLACED int rename(const char* from, const char* to) noexcept {
  static const auto real = system_function<int(const char*, const char*)>("rename");
  return fails(from) ? -1 : real(from, to);
}

namespace {

std::string text_of(const filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

Contents contents(const filesystem::path& folder) {
  Contents found;
  for (const auto& entry : filesystem::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) found[filesystem::relative(entry, folder).string()] = text_of(entry);
  }
  return found;
}

filesystem::path made(const filesystem::path& folder) {
  filesystem::create_directories(folder);
  return folder;
}

int permissions_of(const filesystem::path& path) { return static_cast<int>(filesystem::status(path).permissions()); }

std::string error_of(const std::function<void()>& write) {
  try {
    write();
  } catch (const yolact::Error& error) {
    return error.what();
  }
  return "";
}

yolact::Image picture() {
  yolact::Image image{30, 50, std::make_unique<std::uint8_t[]>(30 * 50 * 3)};
  for (int i = 0; i < 30 * 50 * 3; ++i) image.pixels[i] = static_cast<std::uint8_t>(i * i);
  return image;
}

const struct {
  const char* name;
  void (*write)(const filesystem::path&);
} writers[] = {
    {"text", [](const filesystem::path& path) { yolact::write_file(path, std::string(5000, 'x')); }},
    {"picture", [](const filesystem::path& path) { yolact::write_png(path, picture()); }},
};

// The first call, then the second, and so on until none fails.
void test_calls_that_fail_in_turn(const TemporaryFolder& temporary) {
  for (const auto& [name, write] : writers) {
    write(temporary / name);
    const std::string whole = text_of(temporary / name);
    for (const int error : {ENOSPC, EACCES, EIO}) {
      bool failed = true;
      for (int number = 1; failed; ++number) {
        const filesystem::path folder = made(temporary / "faults"), path = folder / "file";
        std::ofstream(path) << "old";
        filesystem::permissions(path, filesystem::perms{0604});
        fault = {folder.string(), number, 0, error};
        const std::string message = error_of([&, write = write] { write(path); });
        fault.number = 0;
        failed = fault.count >= number;
        CHECK(failed || number == 8);  // after open, ftruncate, fchmod, write, fsync, close and rename
        const std::string expected = path.string() + ": cannot be written: " + std::strerror(error);
        CHECK(failed ? message.starts_with(expected) : message.empty());
        CHECK((contents(folder) == Contents{{"file", failed ? "old" : whole}}));
        CHECK(permissions_of(path) == 0604);
        filesystem::remove_all(folder);
      }
    }
  }
}

// A call that a signal interrupts is made again, and so is one that writes only a part.
void test_calls_that_are_interrupted(const TemporaryFolder& temporary) {
  const filesystem::path folder = made(temporary / "signals");
  const struct {
    int number, error;
  } cases[] = {{1, EINTR}, {2, EINTR}, {3, EINTR}, {3, 0}, {4, EINTR}, {5, EINTR}};  // the third call writes
  for (const auto& [number, error] : cases) {
    filesystem::remove(folder / "file");
    fault = {folder.string(), number, 0, error};
    CHECK(error_of([&] { yolact::write_file(folder / "file", "content"); }).empty());
    CHECK(fault.count >= number);
    fault.number = 0;
    CHECK((contents(folder) == Contents{{"file", "content"}}));
  }
}

void test_checks_in_advance(const TemporaryFolder& temporary) {
  const filesystem::path folder = made(temporary / "advance");
  yolact::check_writable(folder / "file");
  yolact::check_folder_writable(folder);
  for (const int number : {1, 2}) {  // open and close
    fault = {folder.string(), number, 0, EROFS};
    CHECK_ERROR(yolact::check_writable(folder / "file"), "advance/file: cannot be written: Read-only file system");
    fault = {folder.string(), number, 0, EROFS};
    CHECK_ERROR(yolact::check_folder_writable(folder), "advance: cannot be written: Read-only file system");
    fault.number = 0;
  }
  yolact::write_file(folder / "file", "old");
  yolact::check_writable(folder / "file");
  CHECK(contents(folder).at("file") == "old");
}

// The system itself refuses to write beyond a size.
void test_the_largest_file(const TemporaryFolder& temporary) {
  for (const auto& [name, write] : writers) {
    const filesystem::path folder = made(temporary / "limit");
    const auto size = filesystem::file_size(temporary / name);
    rlimit before{};
    ::getrlimit(RLIMIT_FSIZE, &before);
    for (const auto limit : {std::uintmax_t{0}, size / 3, size - 1}) {
      std::ofstream(folder / "file") << "old";
      const rlimit less{static_cast<rlim_t>(limit), before.rlim_max};
      ::setrlimit(RLIMIT_FSIZE, &less);
      const std::string message = error_of([&, write = write] { write(folder / "file"); });
      ::setrlimit(RLIMIT_FSIZE, &before);
      CHECK(message.find("limit/file: cannot be written: File too large: the file system or `ulimit") != message.npos);
      CHECK((contents(folder) == Contents{{"file", "old"}}));
    }
  }
}

void test_permissions(const TemporaryFolder& temporary) {
  const mode_t before = ::umask(027);
  yolact::write_file(temporary / "new", "1");
  CHECK(permissions_of(temporary / "new") == 0640);
  for (const mode_t mode : {0600, 0777, 0444}) {
    ::chmod((temporary / "new").c_str(), mode);
    yolact::write_file(temporary / "new", "2");
    CHECK(permissions_of(temporary / "new") == static_cast<int>(mode));
  }
  ::umask(before);
}

void test_links(const TemporaryFolder& temporary) {
  const filesystem::path folder = made(temporary / "links");
  made(folder / "other");
  filesystem::create_symlink("other/target", folder / "first");  // does not exist yet
  filesystem::create_symlink(folder / "first", folder / "second");
  for (const char* content : {"1", "2"}) {
    yolact::check_writable(folder / "second");
    yolact::write_file(folder / "second", content);
    CHECK(filesystem::is_symlink(folder / "first") && filesystem::is_symlink(folder / "second"));
    CHECK(text_of(folder / "other/target") == content);
  }
  filesystem::create_symlink("round", folder / "round");
  CHECK_ERROR(yolact::write_file(folder / "round", "1"), "round: cannot be written: Too many levels of symbolic links");
  filesystem::create_symlink("none/target", folder / "lost");
  CHECK_ERROR(yolact::write_file(folder / "lost", "1"), "lost: cannot be written: No such file or directory");
  CHECK(filesystem::is_symlink(folder / "lost"));
}

void test_devices_and_pipes(const TemporaryFolder& temporary) {
  CHECK_ERROR(yolact::write_file("/dev/full", "1"),
              "/dev/full: cannot be written: No space left on device: free space");
  CHECK_ERROR(yolact::write_png("/dev/full", picture()), "/dev/full: cannot be written: No space left on device");
  CHECK(filesystem::is_character_file("/dev/full"));
  int ends[2];
  CHECK(::pipe(ends) == 0);
  const std::string path = "/dev/fd/" + std::to_string(ends[1]);
  yolact::check_writable(path);
  yolact::write_file(path, "text");
  char read[8];
  CHECK(::read(ends[0], read, sizeof read) == 4);
  ::close(ends[0]);
  CHECK_ERROR(yolact::write_file(path, "text"), ": cannot be written: Broken pipe");
  ::close(ends[1]);
  // Standard output is not replaced, although it is a file.
  const int output = ::dup(STDOUT_FILENO), file = ::open((temporary / "output").c_str(), O_WRONLY | O_CREAT, 0600);
  ::dup2(file, STDOUT_FILENO);
  CHECK(::write(STDOUT_FILENO, "before ", 7) == 7);
  yolact::write_file("/dev/stdout", "content");
  CHECK(::write(STDOUT_FILENO, " after", 6) == 6);
  ::dup2(output, STDOUT_FILENO);
  ::close(output);
  ::close(file);
  CHECK(text_of(temporary / "output") == "before content after");
  CHECK_ERROR(yolact::check_writable("/dev/fd/999"), "/dev/fd/999: cannot be written: Bad file descriptor");
}

void test_places_where_no_file_can_be(const TemporaryFolder& temporary) {
  const filesystem::path folder = made(temporary / "places");
  std::ofstream(folder / "file") << "old";
  const struct {
    std::string path, reason;
  } cases[] = {{"none/a", "the folder " + (folder / "none").string() + " does not exist: create it first"},
               {"file/a", "Not a directory: a part of the path is a file"},
               {".", "this is a folder: give the name of a file in it"},
               {std::string(256, 'n'), "File name too long: choose a shorter name"}};
  for (const auto& [path, reason] : cases) {
    const std::string message = (folder / path).string() + ": cannot be written: " + reason;
    CHECK(error_of([&, path = path] { yolact::write_file(folder / path, "text"); }) == message);
    CHECK(error_of([&, path = path] { yolact::check_writable(folder / path); }) == message);
  }
  CHECK((contents(folder) == Contents{{"file", "old"}}));
  yolact::make_folder(folder / "a/b");
  yolact::make_folder(folder / "a/b");
  CHECK(filesystem::is_directory(folder / "a/b"));
  CHECK_ERROR(yolact::make_folder(folder / "file"), "file: cannot be made: File exists: this is a file");
  CHECK_ERROR(yolact::make_folder(folder / "file/a"), "file/a: cannot be made: Not a directory: a part of the path is");
  if (::geteuid() == 0) return;  // nothing is forbidden to it
  filesystem::permissions(folder / "a", filesystem::perms{0500});
  CHECK_ERROR(yolact::write_file(folder / "a/file", "1"),
              "Permission denied: change the permissions, or choose another");
  CHECK_ERROR(yolact::check_folder_writable(folder / "a"), "a: cannot be written: Permission denied");
}

void test_the_longest_name(const TemporaryFolder& temporary) {
  const filesystem::path folder = made(temporary / "long");
  const std::string name(255, 'n');
  yolact::write_file(folder / name, "text");
  CHECK((contents(folder) == Contents{{name, "text"}}));
}

void test_leftovers(const TemporaryFolder& temporary) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  ::waitpid(child, nullptr, 0);
  const std::string dead = std::to_string(child), own = std::to_string(getpid()), living = std::to_string(getppid());
  const filesystem::path folder = made(temporary / "leftovers");
  const std::string stay[] = {".locked." + dead + ".part",
                              ".living." + living + ".part",
                              "visible." + dead + ".part",
                              ".a.part",
                              "." + dead + ".part",
                              ".a.1234567890.part",
                              ".a." + dead + "x.part",
                              ".a." + dead + ".part.png",
                              ".a..part"};
  Contents expected{{"new", "text"}};
  for (const std::string& name : stay) std::ofstream(folder / name) << (expected[name] = "half");
  made(folder / (".data." + dead + ".part"));
  for (const std::string& name : {".a.png." + dead + ".part", ".b\n." + own + ".part", ".data." + dead + ".part/in"}) {
    std::ofstream(folder / name) << "half";
  }
  const int other_machine = ::open((folder / stay[0]).c_str(), O_RDONLY);
  CHECK(::flock(other_machine, LOCK_EX) == 0);
  yolact::write_file(folder / "new", "text");
  ::close(other_machine);
  CHECK(contents(folder) == expected);
  CHECK(!filesystem::exists(folder / (".data." + dead + ".part")));
}

void test_threads(const TemporaryFolder& temporary) {
  const filesystem::path folder = made(temporary / "threads");
  const auto work = [&](char letter) {
    for (int i = 0; i < 30; ++i) yolact::write_file(folder / "file", std::string(1000, letter));
  };
  std::thread first(work, 'a'), second(work, 'b');
  first.join();
  second.join();
  const std::string text = text_of(folder / "file");
  CHECK(text == std::string(1000, 'a') || text == std::string(1000, 'b'));
  CHECK(contents(folder).size() == 1);
}

}  // namespace

int main() {
  std::signal(SIGXFSZ, SIG_IGN);
  std::signal(SIGPIPE, SIG_IGN);
  const TemporaryFolder folder;
  test_calls_that_fail_in_turn(folder);
  test_calls_that_are_interrupted(folder);
  test_checks_in_advance(folder);
  test_the_largest_file(folder);
  test_permissions(folder);
  test_links(folder);
  test_devices_and_pipes(folder);
  test_places_where_no_file_can_be(folder);
  test_the_longest_name(folder);
  test_leftovers(folder);
  test_threads(folder);
  return result();
}
