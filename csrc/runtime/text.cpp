#include "text.h"

#include <algorithm>
#include <cstddef>
#include <map>
#include <optional>
#include <utility>

#include <yolact/error.h>
#include <zlib.h>

#include "utf8.h"

namespace yolact {

// cmake/embed.cmake writes them.
extern const unsigned char unifont_data[];
extern const unsigned long unifont_size;

namespace {

constexpr std::size_t characters = 0x10000;
constexpr char16_t replacement = 0xFFFD, forms = 0xD800, mirrored = forms + 4;

enum Direction { neutral, left, right, digit, separator };

// What scripts/unifont.py writes; its description is there.
class Unifont {
 public:
  Unifont() : data_(pairs_start + (1 << 18)) {
    uLongf size = data_.size();
    if (uncompress(data_.data(), &size, unifont_data, unifont_size) != Z_OK) throw Error("the font cannot be unpacked");
    char16_t first = 0, second = 0, result = 0;
    for (std::size_t i = pairs_start; i < size; i += 6) {
      first += difference(i);
      second += difference(i + 2);
      result += difference(i + 4);
      pairs_[{first, second}] = result;
    }
    data_.resize(pairs_start);
  }

  int width(char16_t code) const { return 8 * (data_[code] & 3); }
  bool is_mark(char16_t code) const { return data_[code] & 4; }
  Direction direction(char16_t code) const { return static_cast<Direction>(data_[code] >> 3); }

  // 16 pixels from left to right.
  std::uint16_t row(char16_t code, int y) const {
    const std::uint8_t* halves = &data_[characters + code * 2 * cell_height];
    return static_cast<std::uint16_t>(halves[y] << 8 | halves[cell_height + y]);
  }

  // What is drawn instead of two characters, or of one in a form.
  std::optional<char16_t> pair(char16_t first, char16_t second) const {
    const auto found = pairs_.find({first, second});
    return found == pairs_.end() ? std::nullopt : std::optional(found->second);
  }

 private:
  static constexpr std::size_t pairs_start = characters * (1 + 2 * cell_height);

  char16_t difference(std::size_t i) const { return static_cast<char16_t>(data_[i] << 8 | data_[i + 1]); }

  std::vector<std::uint8_t> data_;
  std::map<std::pair<char16_t, char16_t>, char16_t> pairs_;
};

using Codes = std::vector<char16_t>;

struct Letter {
  Codes codes;  // the marks come last
  Direction direction;
  int level;  // of Unicode's bidirectional algorithm
};

Codes composed(std::string_view text, const Unifont& font) {
  Codes codes;
  while (!text.empty()) {
    const auto [character, size, valid] = first_character(text);
    const char16_t code = character >= characters ? replacement : static_cast<char16_t>(character);
    const auto both = codes.empty() ? std::nullopt : font.pair(codes.back(), code);
    if (both) {
      codes.back() = *both;
    } else {
      codes.push_back(code);
    }
    text.remove_prefix(size);
  }
  return codes;
}

// Replaces Arabic letters by their forms.
void join(Codes& codes, const Unifont& font) {
  const auto next_letter = [&](Codes::iterator from) {
    return std::find_if_not(from, codes.end(), [&](char16_t code) { return font.is_mark(code); });
  };
  bool before = false;
  for (auto letter = next_letter(codes.begin()); letter != codes.end();) {
    const auto next = next_letter(letter + 1);
    const bool after = next != codes.end() && font.pair(*letter, forms + 2) && font.pair(*next, forms + 1);
    *letter = font.pair(*letter, forms + before + 2 * after).value_or(*letter);
    letter = next;
    before = after;
  }
}

std::vector<Letter> split(const Codes& codes, const Unifont& font) {
  std::vector<Letter> letters;
  for (const char16_t code : codes) {
    if (font.width(code) == 0) continue;
    if (!letters.empty() && font.is_mark(code)) {
      letters.back().codes.push_back(code);
    } else {
      letters.push_back({{code}, font.direction(code), 0});
    }
  }
  return letters;
}

// The direction of each letter's last neighbour that is not neutral; digits count as from right to left.
template <class Iterator>
std::vector<Direction> neighbours(Iterator begin, Iterator end, Direction whole) {
  std::vector<Direction> found;
  Direction last = whole;
  std::for_each(begin, end, [&](const Letter& letter) {
    if (letter.direction != neutral && letter.direction != separator) last = letter.direction == left ? left : right;
    found.push_back(last);
  });
  return found;
}

void resolve_directions(std::vector<Letter>& letters, Direction whole) {
  for (std::size_t i = 1; i + 1 < letters.size(); ++i) {
    const bool between_digits = letters[i - 1].direction == digit && letters[i + 1].direction == digit;
    if (letters[i].direction == separator && between_digits) letters[i].direction = digit;
  }
  // Digits after a letter from left to right belong to it.
  Direction last = whole;
  for (Letter& letter : letters) {
    if (letter.direction == left || letter.direction == right) last = letter.direction;
    if (letter.direction == digit && last == left) letter.direction = left;
  }
  const auto before = neighbours(letters.begin(), letters.end(), whole);
  auto after = neighbours(letters.rbegin(), letters.rend(), whole);
  std::reverse(after.begin(), after.end());
  for (std::size_t i = 0; i < letters.size(); ++i) {
    Direction& direction = letters[i].direction;
    if (direction == neutral || direction == separator) direction = before[i] == after[i] ? before[i] : whole;
  }
}

// Orders letters from left to right. The text as a whole has the direction of its first letter.
void put_in_visual_order(std::vector<Letter>& letters, const Unifont& font) {
  const auto first = std::find_if(letters.begin(), letters.end(), [](const Letter& letter) {
    return letter.direction == left || letter.direction == right;
  });
  const Direction whole = first == letters.end() ? left : first->direction;
  resolve_directions(letters, whole);
  for (Letter& letter : letters) {
    letter.level = letter.direction == right ? 1 : letter.direction == left && whole == left ? 0 : 2;
    if (letter.level == 1) letter.codes[0] = font.pair(letter.codes[0], mirrored).value_or(letter.codes[0]);
  }
  for (const int least : {2, 1}) {
    const auto reached = [&](const Letter& letter) { return letter.level >= least; };
    for (auto end = letters.begin(); end != letters.end();) {
      const auto begin = std::find_if(end, letters.end(), reached);
      end = std::find_if_not(begin, letters.end(), reached);
      std::reverse(begin, end);
    }
  }
}

Cell draw_cell(const Codes& codes, const Unifont& font) {
  Cell cell{0, {}};
  for (const char16_t code : codes) cell.width = std::max(cell.width, font.width(code));
  for (const char16_t code : codes) {
    const int start = (cell.width - font.width(code)) / 2;
    for (int y = 0; y < cell_height; ++y) cell.rows[y] |= static_cast<std::uint16_t>(font.row(code, y) >> start);
  }
  return cell;
}

}  // namespace

std::vector<Cell> set_text(std::string_view text) {
  static const Unifont font;
  Codes codes = composed(text, font);
  join(codes, font);
  std::vector<Letter> letters = split(codes, font);
  put_in_visual_order(letters, font);
  std::vector<Cell> cells;
  for (const Letter& letter : letters) cells.push_back(draw_cell(letter.codes, font));
  return cells;
}

}  // namespace yolact
