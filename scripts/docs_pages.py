"""A hook of MkDocs: makes the pages of the site that are not files in docs/.

The start page is the README. CONTRIBUTING.md, SECURITY.md and CHANGELOG.md are pages too, with their links changed to
those of the site. The reference has one page for each module or package of Python, which mkdocstrings fills from the
docstrings, and one page with the headers of C++.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
COPIES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
}
HEADERS = ROOT / "csrc" / "runtime" / "include"
INTERNAL = {"cli", "commands", "demo", "files", "options", "progress", "version"}  # what only the commands use
AS_PAGE = "::: {}\n    options:\n      heading_level: 1\n"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds the pages of the reference to the navigation."""
    for section in config.nav:
        if "Reference" in section:
            section["Reference"] = [{title: path} for title, path, _ in reference_pages()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages."""
    pages = {page: (ROOT / source).read_text() for source, page in COPIES.items()}
    pages |= {path: content for _, path, content in reference_pages()}
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, config: MkDocsConfig, **_: object) -> str:
    """Changes the links of all pages."""
    return site_links(markdown, config.repo_url)


def site_links(markdown: str, repository: str) -> str:
    """Markdown with links to the pages of the site and, for any other file, to the repository."""
    for source, page in COPIES.items():
        markdown = re.sub(rf"\]\((\.\./)?{re.escape(source)}", f"]({page}", markdown)
    return markdown.replace("](docs/", "](").replace("](../", f"]({repository}/blob/main/")


def reference_pages() -> Iterator[tuple[str, str, str]]:
    """Title, path and content of every page of the reference."""
    yield "yolact", "reference/yolact.md", AS_PAGE.format("yolact")
    for path in sorted((ROOT / "yolact").iterdir(), key=lambda path: (path.is_file(), path.name)):
        if path.stem[0] == "_" or path.stem in INTERNAL:
            continue
        name = f"yolact.{path.stem}"
        if path.suffix == ".py":
            yield name, f"reference/{path.stem}.md", AS_PAGE.format(name)
            continue
        modules = sorted(module.stem for module in path.glob("*.py"))
        content = [f"::: {name}.{module}" for module in modules if module[0] != "_" and module not in INTERNAL]
        if content:
            yield name, f"reference/{path.stem}.md", "\n\n".join([f"# {name}", *content])
    headers = (header for header in sorted(HEADERS.rglob("*.h")) if "///" in header.read_text())
    content = "\n\n".join(
        f"## {header.relative_to(HEADERS)}\n\n```cpp\n{declarations(header)}\n```" for header in headers
    )
    yield "C++", "reference/cpp.md", f"# C++\n\n`#include <yolact/yolact.h>` includes all of these.\n\n{content}\n"


def declarations(header: Path) -> str:
    """What a header declares, without its includes, its namespace and private members."""
    text = re.sub(r"^(#.*|namespace yolact \{|\}  // namespace yolact)\n", "", header.read_text(), flags=re.MULTILINE)
    text = re.sub(r"^ private:\n.*?(?=^\};)", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"\n{3,}", "\n\n", text.replace("YOLACT_API ", "")).strip()
