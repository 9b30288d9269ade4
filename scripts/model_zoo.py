"""Counts parameters and GFLOPs of all presets and writes docs/model_zoo.md."""

from pathlib import Path

from yolact.files import written_whole
from yolact.model_zoo import markdown

PAGE = Path(__file__).resolve().parent.parent / "docs" / "model_zoo.md"

if __name__ == "__main__":
    with written_whole(PAGE) as temporary:
        temporary.write_text(markdown())
    print(PAGE)
