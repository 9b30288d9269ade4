#include <yolact/coco.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "check.h"

namespace {

// The expected texts are those of pycocotools.
void test_encode_mask() {
  const std::vector<std::uint8_t> none(6, 0), all(6, 1), corner = {1, 0, 0, 0, 0, 0};
  const std::vector<std::uint8_t> ring = {1, 1, 1, 1, 0, 1, 1, 1, 1};
  CHECK(yolact::encode_mask(none, 2, 3) == "6");
  CHECK(yolact::encode_mask(all, 2, 3) == "06");
  CHECK(yolact::encode_mask(corner, 2, 3) == "015");
  CHECK(yolact::encode_mask(ring, 3, 3) == "0410");
  std::vector<std::uint8_t> long_run(100 * 100, 0);
  long_run[50 * 100 + 50] = 1;
  CHECK(yolact::encode_mask(long_run, 100, 100) == "jm41ej4");
}

void test_run_lengths() {
  const std::vector<std::uint8_t> mask = {1, 0, 0, 0, 1, 1};
  const std::vector<std::int64_t> runs = {0, 1, 2, 1, 1, 1};
  CHECK(yolact::run_lengths(mask, 2, 3) == runs);
  CHECK(yolact::encode_runs(runs) == yolact::encode_mask(mask, 2, 3));
  const yolact::EncodedDetections found{{2, 3, {}, {}, {0, 0}, {}}, {6, 0, 1, 2, 1, 1, 1}, {0, 1, 7}};
  CHECK(std::ranges::equal(found.runs(0), std::vector<std::int64_t>({6})) && std::ranges::equal(found.runs(1), runs));
}

void test_json() {
  const std::vector<std::uint8_t> mask = {1, 0, 0, 1};
  const yolact::Objects objects{2, 2, {{0.5f, 0.0f, 2.0f, 1.25f}}, {0.75f}, {1}, {}};
  yolact::Detections found{objects, {mask.data(), [](const std::uint8_t*) {}}};
  yolact::CocoResults results;
  CHECK(results.json() == "[]");
  results.add("a \"b\"\n\xff \xc3\xa9.png", 7, found, {"cat", "dog"});
  CHECK(results.json() ==
        "[{\"image\": \"a \\\"b\\\"\\u000a\xef\xbf\xbd \xc3\xa9.png\", \"category_name\": \"dog\", \"image_id\": 7, "
        "\"category_id\": 2, \"bbox\": [0.5, 0, 1.5, 1.25], \"score\": 0.75, \"box_score\": 0.75, "
        "\"segmentation\": {\"size\": [2, 2], \"counts\": \"0120\"}}]");
  yolact::CocoResults encoded;
  encoded.add("a \"b\"\n\xff \xc3\xa9.png", 7, yolact::EncodedDetections{objects, {0, 1, 2, 1}, {0, 4}},
              {"cat", "dog"});
  CHECK(encoded.json() == results.json());

  // Python's decoder replaces the same bytes.
  const std::string bad = "\xef\xbf\xbd";
  const std::pair<std::string, std::string> names[] = {
      {"\xe2\x82"
       "A",
       bad + "A"},
      {"\xf0\x9f\x98", bad},
      {"\xf0\x90\x80\xc3\xa9", bad + "\xc3\xa9"},
      {"\xc0\xaf", bad + bad},
      {"\xed\xa0\x80", bad + bad + bad},
      {"\xe0\x80\x80", bad + bad + bad},
      {"\xf4\x90\x80\x80", bad + bad + bad + bad},
      {"\xee\x80\x80\xf0\x9f\x98\x80\xf4\x8f\xbf\xbf", "\xee\x80\x80\xf0\x9f\x98\x80\xf4\x8f\xbf\xbf"},
  };
  for (const auto& [name, written] : names) {
    yolact::CocoResults named;
    named.add(name, 1, found, {"cat", "dog"});
    CHECK(named.json().starts_with("[{\"image\": \"" + written + "\", "));
  }
  found.mask_scores = {0.5f};
  yolact::CocoResults rescored;
  rescored.add("a", 7, found, {"cat", "dog"});
  CHECK(rescored.json().find("\"score\": 0.5, \"box_score\": 0.75") != std::string::npos);
}

}  // namespace

int main() {
  test_encode_mask();
  test_run_lengths();
  test_json();
  return result();
}
