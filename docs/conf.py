"""The documentation site: Sphinx reads docs/*.md through MyST; `scripts/docs` builds it into build/docs."""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
# Pages that live at the top of the checkout, where GitHub and contributors look for them.
AT_THE_TOP = {"index": "README.md", "changelog": "CHANGELOG.md", "contributing": "CONTRIBUTING.md"}
LINK = re.compile(r"(?<=\]\()(?!https?:|#)([^)#]+)")

project = "ptune"
author = "the ptune authors"
copyright = "the ptune authors, Apache-2.0"  # noqa: A001 (Sphinx reads this name)
extensions = ["myst_parser", "sphinx_llms_txt"]
exclude_patterns = ["images"]
myst_heading_anchors = 4  # links such as engine.md#profiles; one that leads nowhere is a warning
highlight_language = "none"  # blocks without a language are commands and plain text

html_theme = "furo"
html_title = "ptune"
html_copy_source = True  # llms.txt is made of it
html_show_sourcelink = False


def from_the_top(app: Sphinx, page: str, source: list[str]) -> None:
    """Puts the text of README.md and its like into their pages, with links as seen from docs/."""
    if page in AT_THE_TOP:
        file = ROOT / AT_THE_TOP[page]
        app.env.note_dependency(str(file))  # or a page would not be built anew when its text changes
        text = file.read_text(encoding="utf-8")
        source[0] = LINK.sub(_seen_from_docs, text) + "\n" + source[0]


def _seen_from_docs(link: re.Match[str]) -> str:
    pages = {file: f"{page}.md" for page, file in AT_THE_TOP.items()}
    target = link[1]
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    return pages.get(target, f"../{target}")


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", from_the_top)
