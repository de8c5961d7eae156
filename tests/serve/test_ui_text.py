"""What the chat page shows is harmless, and still what was said."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from ptune_serve.ui.answer import StreamedAnswer
from ptune_serve.ui.client import ServedModels
from ptune_serve.ui.maths import MARK
from ptune_serve.ui.neutral import neutral, plain
from ptune_serve.ui.text import heading, measured

PIECES = ["<b>", "</b>", "<!--", "<?x", "![i](u)", "```", "````", "~~~", "```html", "`", "\n", "\r", "    ", "  ", "- ", "> ", "a", "|", "-", "&lt;", "\\", "[", "]:", "'"]  # fmt: skip
MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable("table")


@settings(max_examples=1000)
@given(st.lists(st.sampled_from(PIECES), max_size=24).map("".join))
def test_no_markdown_reader_finds_html_or_an_image(text: str) -> None:
    tokens = MARKDOWN.parse(neutral(text))
    tokens += [child for token in tokens for child in token.children or ()]
    assert not {token.type for token in tokens} & {"html_block", "html_inline", "image"}


@given(st.text(alphabet=st.sampled_from("<>![]b/`\n ~")))
def test_an_edited_message_comes_back_as_it_was(text: str) -> None:
    assert plain(neutral(text)) == text


def test_code_stays_as_it_is() -> None:
    code = "```html\n<div>![x](y)</div>\n```"
    assert neutral(code) == code
    assert neutral(f"{code}\n<div>") == f"{code}\n<\u2060div>"


def test_diagrams_are_code() -> None:
    assert neutral("```mermaid\ngraph TD\n```") == "```text\ngraph TD\n```"


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (StreamedAnswer(), "Waiting for the first token …"),
        (
            StreamedAnswer(text="a", tokens=1, first_token_s=0.25, seconds=0.25),
            "1 token · first token after 0.25 s",
        ),
        (
            StreamedAnswer(text="ab", tokens=11, first_token_s=0.5, seconds=1.5, finish="length"),
            "11 tokens · 10.0 tokens/s · first token after 0.50 s · cut off",
        ),
    ],
)
def test_the_line_under_an_answer(answer: StreamedAnswer, line: str) -> None:
    assert measured(answer) == f'<span class="quiet">{line}</span>'


def test_a_servers_words_are_escaped() -> None:
    assert "<b>x</b>" not in measured(StreamedAnswer(error="<b>x</b>"))
    assert "<i>" not in heading("<i>") + heading(ServedModels("<i>", "<i>", ("<i>",), 10))


FORMULAS = [
    ("is $x_1$, ok", ["$x_1$"]),
    ("a\n$$\n\\int x\n$$\nb", ["$$\n\\int x\n$$"]),
    (r"\(a\) and \[b\]", [r"\(a\)", r"\[b\]"]),
    ("costs $5 and $6, or $5-$10", []),
    ("`$x$` and ``$y$``", []),
    ("$HOME and $PATH", []),
    (r"\$5$ and \$6$", []),
    ("$$\n\nnext paragraph $$", []),
    ("```\n$x$\n```", []),
    ("$$\n```\n$$\n```\n", []),  # a formula does not reach over a fence
    ("$ x $", []),
]


@pytest.mark.parametrize(("text", "formulas"), FORMULAS)
def test_what_is_a_formula(text: str, formulas: list[str]) -> None:
    found = re.findall(f"{MARK}([^{MARK}]*){MARK}", neutral(text))
    assert found == formulas
    assert plain(neutral(text)) == text


def test_a_text_cannot_make_a_formula_by_itself() -> None:
    assert neutral(f"{MARK}$$x{MARK}") == "$$x"
    assert MARK not in neutral(f"```\n{MARK}$x${MARK}\n```")


@given(
    st.lists(
        st.sampled_from(["$", "$$", "\\(", "\\)", "\\[", "\\]", "`", "```", "\n", "x", " ", "<b>", "\n\n"]),
        max_size=20,
    )
)
def test_formulas_leave_code_and_tags_as_harmless_as_without(pieces: list[str]) -> None:
    text = "".join(pieces)
    assert plain(neutral(text)) == text
    without = neutral(text).replace(MARK, "")
    assert "<b>" not in re.sub(r"(?ms)^(`{3,})[^`\n]*$.*?(^ {0,3}\1`*[ \t]*$|\Z)", "", without)
    assert neutral(text).count(MARK) % 2 == 0
