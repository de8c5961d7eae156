"""Text that nobody here wrote, as Markdown that neither runs nor loads anything in the reader's browser."""

from __future__ import annotations

import re

from .maths import MARK, marked

_BREAK = "\u2060"  # word joiner: invisible, and enough to break a tag
_FENCE = re.compile(r"(`{3,})[^`]*|(~{3,}).*")  # not indented, so no list or quotation can end it early
_TAG = re.compile(r"<(?=[A-Za-z/!?])")


def neutral(text: str) -> str:
    """Markdown with formulas, without HTML, images and diagrams, which would run or load in the reader's browser.

    Fenced code stays as it is, since Markdown shows it literally, so that it can be copied. The page's sanitizer and
    its content security policy stand behind this.
    """
    shown: list[str] = []
    prose: list[str] = []
    fence = ""  # the open fence, if any
    for line in re.split("\r\n|\r|\n", text.replace(MARK, "")):
        opening = _FENCE.fullmatch(line)
        if fence:
            fence = "" if re.fullmatch(rf" {{0,3}}{fence}{fence[0]}*[ \t]*", line) else fence
            shown.append(line)
        elif opening:
            shown += _harmless(prose)
            prose = []
            fence = opening[1] or opening[2]
            shown.append(line.replace("mermaid", "text"))  # code that would be drawn
        else:
            prose.append(line)
    return "\n".join([*shown, *_harmless(prose)])


def _harmless(prose: list[str]) -> list[str]:
    """Lines that are no code, without HTML and images, in one string."""
    if not prose:
        return []
    text = _TAG.sub("<" + _BREAK, "\n".join(prose)).replace("![", "!" + _BREAK + "[")
    return [marked(text)]


def plain(shown: str) -> str:
    """Undoes `neutral`, to send a message that was edited on the page."""
    return shown.replace(MARK, "").replace("<" + _BREAK, "<").replace("!" + _BREAK + "[", "![")
