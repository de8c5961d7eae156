r"""Formulas in a model's text: which dollars and brackets are meant as TeX, told to the page's KaTeX by a mark of our own.

The page takes no delimiter of a text for a formula, only ours, and a text cannot hold the mark. So a price is no formula,
nor is `$HOME` in code; and no formula swallows the fence of a code block, behind which Markdown would read code as HTML.
"""

from __future__ import annotations

import re

MARK = "\u2063"  # invisible separator
LONGEST = 2000
"""Characters of a formula. What is longer stays text."""
_DELIMITERS = (("$$", "$$", True), ("\\[", "\\]", True), ("\\(", "\\)", False), ("$", "$", False))
KATEX: list[dict[str, str | bool]] = [
    {"left": MARK + left, "right": right + MARK, "display": display} for left, right, display in _DELIMITERS
]
"""For gradio: in this order, as `$` also begins `$$`."""

_FORMULA = re.compile(
    r"(?P<code>(?<!`)(?P<ticks>`+)(?!`)(?:(?!\n\s*\n).)*?(?<!`)(?P=ticks)(?!`))"  # code in a line is passed by
    r"|(?<!\\)\$\$(?P<block>(?:(?!\$|\n\s*\n).)+?)\$\$"
    r"|(?<!\\)\\\[(?P<bracket>(?:(?!\\[\[\]]|\n\s*\n).)+?)\\\]"
    r"|(?<!\\)\\\((?P<paren>(?:(?!\\[()]|\n\s*\n).)+?)\\\)"
    # As pandoc: no space inside the dollars, no digit behind them
    r"|(?<![\\$\w])\$(?P<dollar>(?![\s$])(?:(?![$\n]).)+?)(?<![\s\\])\$(?![\d$])",
    re.DOTALL,
)


def marked(prose: str) -> str:
    """The text with the mark around its formulas. prose: without code blocks and without the mark."""

    def mark(found: re.Match[str]) -> str:
        written = found[0]
        return written if found["code"] or len(written) > LONGEST else f"{MARK}{written}{MARK}"

    return _FORMULA.sub(mark, prose)
