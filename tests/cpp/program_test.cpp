// yolact-segment as its users see it: exit codes, messages and files.
#include <sys/stat.h>
#include <sys/wait.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>

#include <yolact/image.h>

#include "check.h"
#include "pictures.h"

namespace filesystem = std::filesystem;

namespace {

struct Run {
  int code;  // -1 if a signal ended it
  std::string output, errors;
};

class Program {
 public:
  Program(const TemporaryFolder& folder, const std::string& program, const std::string& model)
      : folder_(folder), program_(program), model_(model) {}

  // Runs in the temporary folder. `redirection` follows the redirection of the standard output, so it can replace it.
  // `before` is a command of the shell.
  Run run(const std::string& arguments, const std::string& redirection = "", const std::string& before = "true") const {
    const std::string command = "cd '" + folder_.path().string() + "' && " + before + " && '" + program_ + "' " +
                                arguments + " >output 2>errors " + redirection;
    const int status = std::system(command.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, text_of(folder_ / "output"), text_of(folder_ / "errors")};
  }

  Run segment(const std::string& arguments, const std::string& redirection = "",
              const std::string& before = "true") const {
    return run("'" + model_ + "' " + arguments, redirection, before);
  }

 private:
  const TemporaryFolder& folder_;
  std::string program_, model_;
};

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

void test_usage(const Program& program) {
  CHECK(program.run("--help").code == 0 && contains(program.run("--help").output, "Usage:"));
  CHECK(program.run("--version").code == 0);
  for (const char* arguments : {"",
                                "model.pt",
                                "m a.png --what",
                                "m a.png -o",
                                "m a.png --score-threshold 2",
                                "m a.png --score-threshold nan",
                                "m a.png --score-threshold=x",
                                "m a.png --max-detections 0",
                                "m a.png --json",
                                "m a.png --json=",
                                "m a.png --json folder/",
                                "m a.png --no-pictures",
                                "m a.png --pictures=x",
                                "m a.png --output=",
                                "m a.png --16-bit",
                                "m a.png --16-bit=low",
                                "m a.png --ignore-exif=x",
                                "m a.png --cuda-graph",
                                "m a.png --cuda-graph=x",
                                "m a.png --device cuda --cuda-graph --json x.json --no-pictures"}) {
    const Run wrong = program.run(arguments);
    CHECK(wrong.code == 2 && contains(wrong.errors, "yolact-segment: ") && contains(wrong.errors, "--help"));
  }
}

void test_images(const Program& program, const TemporaryFolder& folder) {
  filesystem::create_directories(folder / "images/sub");
  filesystem::copy(folder / "photo.jpg", folder / "images/b.JPG");
  filesystem::copy(folder / "photo.jpg", folder / "images/a.jpeg");
  std::ofstream(folder / "images/bad.png") << "text";
  std::ofstream(folder / "images/notes.txt") << "text";
  const Run mixed = program.segment("images photo.jpg images/b.JPG missing.png --json new/results.json -o out/deep");
  CHECK(mixed.code == 1);
  CHECK(contains(mixed.errors, "images/bad.png: this is not a JPEG or PNG image\n"));
  CHECK(contains(mixed.errors, "missing.png: there is no such file\n"));
  CHECK(mixed.errors.ends_with("yolact-segment: 2 of 6 images failed, the others are done\n"));
  for (const char* picture : {"a.png", "b.png", "photo.png", "b_1.png"}) {
    CHECK(filesystem::is_regular_file(folder / "out/deep" / picture));
  }
  CHECK(std::distance(filesystem::directory_iterator(folder / "out/deep"), {}) == 4);
  const std::string json = text_of(folder / "new/results.json");
  CHECK(json.starts_with("[{\"image\": \"images/a.jpeg\", ") && json.ends_with("}]"));
  CHECK(contains(json, "\"image_id\": 5"));

  const std::string images = "images photo.jpg images/b.JPG missing.png ";
  CHECK(program.segment(images + "--json=plain.json --no-pictures -o plain").code == 1);
  CHECK(!filesystem::exists(folder / "plain"));
  CHECK(text_of(folder / "plain.json") == json);

  CHECK(program.segment("photo.jpg --no-pictures --pictures --json none.json --score-threshold 1").code == 0);
  CHECK(filesystem::is_regular_file(folder / "yolact-output/photo.png"));
  CHECK(text_of(folder / "none.json") == "[]");
}

void test_errors(const Program& program, const TemporaryFolder& folder) {
  filesystem::create_directories(folder / "empty");
  filesystem::copy(folder / "yolact-output/photo.png", folder / "photo.png");
  const struct {
    const char *arguments, *message;
  } cases[] = {{"empty", "empty: there is no image in this folder"},
               {"photo.png -o .", "photo.png is an input"},
               {"photo.png --json ./photo.png", "photo.png is an input"},
               {"none.png", "none.png: there is no such file"},
               {"photo.jpg --json photo.png/x.json", "photo.png: cannot be made: File exists: this is a file"},
               {"photo.jpg --json empty", "empty: cannot be written: this is a folder: give the name of a file in it"},
               {"photo.jpg -o photo.png", "photo.png: cannot be made: File exists: this is a file"},
               {"photo.jpg -o /proc/none", "/proc/none: cannot be made: No such file or directory"},
               {"photo.jpg -o /proc", "/proc: cannot be written: No such file or directory"},
               {"photo.jpg --device toaster", "'toaster' is not a device: give cpu"}};
  for (const auto& [arguments, message] : cases) {
    const Run failed = program.segment(arguments);
    CHECK(failed.code == 1 && contains(failed.errors, message));
    CHECK(failed.errors.find('\n') + 1 == failed.errors.size());
    CHECK(failed.output.empty());  // nothing was done before the error
  }
  CHECK(program.run("none.pt photo.jpg").errors == "yolact-segment: none.pt: there is no such file\n");
}

// The reader of the output may stop before the end, and the disk may be full.
void test_output_ends(const Program& program, const TemporaryFolder& folder) {
  const Run full = program.segment("photo.jpg -o full", ">/dev/full");
  CHECK(full.code == 1);
  CHECK(full.errors ==
        "yolact-segment: standard output: cannot be written: No space left on device: free space there, "
        "or choose another folder\n");
  CHECK(filesystem::is_regular_file(folder / "full/photo.png"));
  // The next command in the pipe does not read it.
  CHECK(program.segment("photo.jpg -o pipe 3>&1", ">&3 | true").errors.empty());
  CHECK(filesystem::is_regular_file(folder / "pipe/photo.png"));
  const Run closed = program.segment("photo.jpg -o closed", ">&-");
  CHECK(closed.code == 0 && closed.errors.empty());
  CHECK(filesystem::is_regular_file(folder / "closed/photo.png"));
  const Run both = program.segment("photo.jpg --no-pictures --json /dev/stdout");
  CHECK(both.code == 0 && both.output.starts_with("photo.jpg: ") && contains(both.output, " detections\n[{"));
}

// Everything of one image may fail, and the others are done.
void test_one_bad_image(const Program& program, const TemporaryFolder& folder) {
  filesystem::create_directories(folder / "bad/photo.png");
  filesystem::create_directories(folder / "folder");
  ::mkfifo((folder / "folder/pipe.png").c_str(), 0600);
  filesystem::copy(folder / "photo.jpg", folder / "folder/\xff\xc3\xa9.jpg");
  const Run mixed = program.segment("folder photo.jpg -o bad --json bad.json");
  CHECK(mixed.code == 1);
  CHECK(mixed.errors ==
        "yolact-segment: folder/pipe.png: this is not a regular file\n"
        "yolact-segment: bad/photo.png: cannot be written: this is a folder: give the name of a file in it\n"
        "yolact-segment: 2 of 3 images failed, the others are done\n");
  CHECK(filesystem::is_regular_file(folder / "bad/\xff\xc3\xa9.png"));
  CHECK(text_of(folder / "bad.json").starts_with("[{\"image\": \"folder/\xef\xbf\xbd\xc3\xa9.jpg\", "));
  CHECK(!contains(text_of(folder / "bad.json"), "photo.jpg"));
}

void test_full_disk(const Program& program, const TemporaryFolder& folder) {
  const std::string reason =
      "cannot be written: File too large: the file system or `ulimit -f` allows no larger file\n";
  const Run pictures = program.segment("photo.jpg images/b.JPG -o limit", "", "ulimit -f 8");
  CHECK(pictures.code == 1);
  CHECK(pictures.errors == "yolact-segment: limit/photo.png: " + reason + "yolact-segment: limit/b.png: " + reason +
                               "yolact-segment: 2 of 2 images failed\n");
  CHECK(filesystem::is_empty(folder / "limit"));
  std::ofstream(folder / "limit/old.json") << "old";
  const Run results = program.segment("photo.jpg --no-pictures --json limit/old.json", "", "ulimit -f 8");
  CHECK(results.code == 1);
  CHECK(results.errors == "yolact-segment: limit/old.json: " + reason);
  CHECK(text_of(folder / "limit/old.json") == "old");
  CHECK(std::distance(filesystem::directory_iterator(folder / "limit"), {}) == 1);
}

void test_reading(const Program& program, const TemporaryFolder& folder) {
  write_sixteen_bit(folder / "dark.png", {0, 0xfff});
  write_sixteen_bit(folder / "darker.png", {0, 1});
  write_sixteen_bit(folder / "light.png", {0, 0x2000});
  std::ofstream(folder / "turned.jpg", std::ios::binary) << with_orientation(text_of(folder / "photo.jpg"), 6);
  const std::int64_t width = yolact::read_image(folder / "photo.jpg").width;
  const std::string images = "light.png dark.png darker.png turned.jpg ";
  const Run usual = program.segment(images + "-o usual");
  CHECK(usual.code == 0);
  CHECK(
      usual.errors ==
      "yolact-segment: warning: dark 16-bit picture: 2 pictures, for example dark.png: its values have 12 of 16 bits, "
      "so that its brightest pixel is 15 of 255 – read with its high bytes, unless --16-bit scale is given\n");
  CHECK(yolact::read_image(folder / "usual/turned.png").height == width);
  const Run asked = program.segment(images + "--16-bit scale --ignore-exif -o asked");
  CHECK(asked.code == 0 && asked.errors.empty());
  CHECK(yolact::read_image(folder / "asked/turned.png").width == width);
}

}  // namespace

int main(int, char** arguments) {
  const TemporaryFolder folder;
  const Program program(folder, arguments[1], arguments[2]);
  filesystem::copy(arguments[3], folder / "photo.jpg");
  test_usage(program);
  test_images(program, folder);
  test_errors(program, folder);
  test_output_ends(program, folder);
  test_one_bad_image(program, folder);
  test_full_disk(program, folder);
  test_reading(program, folder);
  return result();
}
