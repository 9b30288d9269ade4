"""Makes yolact/assets/unifont.zlib, the font of captions that are not ASCII, from GNU Unifont.

    python scripts/unifont.py /usr/share/unifont/unifont.hex /usr/share/unifont/plane00-combining.txt \\
        yolact/assets/unifont.zlib

Both files are in Debian's package `unifont`. Unpacked, the output has three tables, which yolact/text.py and
csrc/runtime/text.cpp read:

- For each character up to U+FFFF one byte. Bits 0 and 1 are its width in units of 8 pixels, 0 if it draws nothing;
  bit 2 is 1 if it belongs to the character before it; bits 3 to 5 are its direction.
- For each of them its glyph: 16 bytes for the rows of its left half, and 16 for those of its right half.
- Pairs (first, second, result), sorted, of three numbers of two big-endian bytes each: `result` is drawn instead of two
  characters, or instead of `first` if `second` is a form. The file has the differences from each pair to the next.

Characters that Python's Unicode tables (`unicodedata.unidata_version`) do not know are drawn as U+FFFD.
"""

import argparse
import unicodedata
import zlib
from pathlib import Path

import numpy as np

from yolact.files import written_whole
from yolact.text import CHARACTERS, DIGIT, FORMS, LEFT, MIRRORED, NEUTRAL, REPLACEMENT, RIGHT, SEPARATOR

DIRECTIONS = {"L": LEFT, "R": RIGHT, "AL": RIGHT, "EN": DIGIT, "AN": DIGIT, "CS": SEPARATOR, "ES": SEPARATOR}
BLANKS = {*b"\t\n\v\f\r", 0x85, 0x2028, 0x2029}
# Signs that have ink although their category is that of control characters.
VISIBLE_FORMATS = {0x600, 0x601, 0x602, 0x603, 0x604, 0x605, 0x6DD, 0x70F, 0x890, 0x891, 0x8E2}
FILLERS = {0x115F, 0x1160, 0x3164, 0xFFA0}
ZERO_WIDTH_NON_JOINER, ZERO_WIDTH_JOINER, TATWEEL, LAM = 0x200C, 0x200D, 0x640, 0x644


def kind_of(character: str, glyph: bytes, marks: set[int]) -> int:
    """The byte of a character in the first table."""
    code, category = ord(character), unicodedata.category(character)
    invisible = category in ("Cc", "Cf") and code not in VISIBLE_FORMATS
    invisible |= code in FILLERS or (category[0] == "M" and code not in marks)
    width = 0 if invisible else len(glyph) // 16
    # Arabic letters join across marks and all that is invisible, except these two.
    is_mark = (invisible or code in marks) and code not in (ZERO_WIDTH_NON_JOINER, ZERO_WIDTH_JOINER)
    return width | is_mark << 2 | DIRECTIONS.get(unicodedata.bidirectional(character), NEUTRAL) << 3


def pairs() -> dict[tuple[int, int], int]:
    """Compositions of Unicode, Arabic letters and their forms, and brackets and their mirrored form."""
    found: dict[tuple[int, int], int] = {}
    forms = {"<final>": FORMS + 1, "<initial>": FORMS + 2, "<medial>": FORMS + 3}
    for code in range(CHARACTERS):
        whole = unicodedata.normalize("NFD", chr(code))
        if len(whole) > 1 and unicodedata.normalize("NFC", whole) == chr(code):
            found[ord(unicodedata.normalize("NFC", whole[:-1])), ord(whole[-1])] = code
        form, *parts = unicodedata.decomposition(chr(code)).split() or [""]
        letters = [int(part, 16) for part in parts]
        if form in forms and len(letters) == 1:
            found.setdefault((letters[0], forms[form]), code)
        elif letters[:1] == [LAM] and letters[1:] in ([0x622], [0x623], [0x625], [0x627]):  # forms of alef
            if form == "<isolated>":
                found[LAM, letters[1]] = code
            else:
                found[found[LAM, letters[1]], forms[form]] = code
    for code in (TATWEEL, ZERO_WIDTH_JOINER):
        found.update({(code, form): code for form in forms.values()})
    for one, other in ("()", "[]", "{}", "<>", "«»", "‹›"):
        found[ord(one), MIRRORED], found[ord(other), MIRRORED] = ord(other), ord(one)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("glyphs", help="unifont.hex")
    parser.add_argument("marks", help="plane00-combining.txt")
    parser.add_argument("output", help="the file to write")
    arguments = parser.parse_args()
    lines = Path(arguments.glyphs).read_text().split()
    glyphs = {int(code, 16): bytes.fromhex(glyph) for code, glyph in (line.split(":") for line in lines)}
    lines = Path(arguments.marks).read_text().split()
    marks = {int(line.split(":")[0], 16) for line in lines if not line.startswith("#")}
    kinds, halves = bytearray(), bytearray()
    for code in range(CHARACTERS):
        shown = " " if code in BLANKS else chr(code)
        if code not in glyphs or unicodedata.category(shown) == "Cn":
            shown = chr(REPLACEMENT)
        glyph = glyphs[ord(shown)]
        kinds.append(kind_of(shown, glyph, marks))
        halves += glyph[::2] + glyph[1::2] if len(glyph) == 32 else glyph + bytes(16)
    table = np.array([(*pair, result) for pair, result in sorted(pairs().items())], np.uint16)
    differences = np.diff(table, axis=0, prepend=table[:1] * 0).astype(">u2")
    packed = zlib.compress(bytes(kinds + halves) + differences.tobytes(), 9)
    with written_whole(arguments.output) as file:
        file.write(packed)


if __name__ == "__main__":
    main()
