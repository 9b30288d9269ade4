"""What the files around the code say of it stays true."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_quoted_messages_are_in_the_sources():
    paths = [
        path for folder in ("yolact", "csrc") for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".cpp")
    ]
    # A message goes on from one literal to the next.
    sources = "\n".join(re.sub(r'"\s+f?"', "", path.read_text()) for path in paths)
    messages = re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs" / "messages.md").read_text(), re.MULTILINE)
    assert len(messages) > 40
    stale = [text for text in messages for part in text.split("…") if part not in sources]
    assert not stale


def test_commits_are_checked_by_the_versions_that_lint_uses():
    pins = dict(re.findall(r'"([\w-]+)==([\d.]+)"', (ROOT / "pyproject.toml").read_text()))
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    for tool, repository in (
        ("ruff", "ruff-pre-commit"),
        ("clang-format", "mirrors-clang-format"),
        ("check-jsonschema", "check-jsonschema"),
        ("zizmor", "zizmor-pre-commit"),
    ):
        version = re.search(rf"/{repository}\n    rev: v?([\d.]+)\n", hooks)
        assert version, repository
        assert version[1] == pins[tool]
