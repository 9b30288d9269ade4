// yolact-segment as its users see it: exit codes, messages and files.
#include <sys/wait.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>

#include "check.h"

namespace filesystem = std::filesystem;

namespace {

struct Run {
  int code;  // -1 if a signal ended it
  std::string output, errors;
};

std::string text_of(const filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

class Program {
 public:
  Program(const TemporaryFolder& folder, const std::string& program, const std::string& model)
      : folder_(folder), program_(program), model_(model) {}

  // Runs in the temporary folder. `redirection` follows the redirection of the standard output, so it can replace it.
  Run run(const std::string& arguments, const std::string& redirection = "") const {
    const std::string command =
        "cd '" + folder_.path().string() + "' && '" + program_ + "' " + arguments + " >output 2>errors " + redirection;
    const int status = std::system(command.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, text_of(folder_ / "output"), text_of(folder_ / "errors")};
  }

  Run segment(const std::string& arguments, const std::string& redirection = "") const {
    return run("'" + model_ + "' " + arguments, redirection);
  }

 private:
  const TemporaryFolder& folder_;
  std::string program_, model_;
};

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

void test_usage(const Program& program) {
  CHECK(program.run("--help").code == 0 && contains(program.run("--help").output, "Usage:"));
  CHECK(program.run("--version").code == 0);
  for (const char* arguments :
       {"", "model.pt", "m a.png --what", "m a.png -o", "m a.png --score-threshold 2", "m a.png --score-threshold nan",
        "m a.png --score-threshold=x", "m a.png --max-detections 0", "m a.png --json",
        "m a.png --json=", "m a.png --json folder/", "m a.png --no-pictures", "m a.png --pictures=x",
        "m a.png --output=", "m a.png --cuda-graph", "m a.png --cuda-graph=x",
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
  CHECK(contains(mixed.errors, "2 of 6 images failed"));
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
               {"photo.jpg --json photo.png/x.json", ""},
               {"photo.jpg -o photo.png", ""},
               {"photo.jpg -o /proc/none", ""},
               {"photo.jpg --device toaster", "'toaster' is not a device: give cpu"}};
  for (const auto& [arguments, message] : cases) {
    const Run failed = program.segment(arguments);
    CHECK(failed.code == 1 && contains(failed.errors, message));
    CHECK(failed.errors.find('\n') + 1 == failed.errors.size());
  }
  CHECK(program.run("none.pt photo.jpg").errors == "yolact-segment: none.pt: there is no such file\n");
}

// The reader of the output may stop before the end, and the disk may be full.
void test_output_ends(const Program& program, const TemporaryFolder& folder) {
  CHECK(program.segment("photo.jpg -o full", ">/dev/full").code == 1);
  CHECK(filesystem::is_regular_file(folder / "full/photo.png"));
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
  return result();
}
