"""Counts parameters and GFLOPs of all presets and writes docs/model_zoo.md."""

from pathlib import Path

from yolact.files import write_text
from yolact.model_zoo import markdown

PAGE = Path(__file__).resolve().parent.parent / "docs" / "model_zoo.md"

if __name__ == "__main__":
    write_text(PAGE, markdown())
    print(PAGE)
