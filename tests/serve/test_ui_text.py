"""What the chat page shows is harmless, and still what was said."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from ptune_serve.ui.client import ServedModels, StreamedAnswer
from ptune_serve.ui.text import heading, measured, neutral, plain, shown_parts

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


def test_what_was_thought_is_shown_apart() -> None:
    message = {"role": "assistant", "content": "", "reasoning_content": "<b>", "thought_s": "3.4", "thinking": "yes"}  # fmt: skip
    [thought] = shown_parts(message)
    assert thought["content"] == [{"type": "text", "text": "<\u2060b>"}]
    assert thought["metadata"] == {"title": "Thinking …", "status": "pending"}
    del message["thinking"]
    thought, said = shown_parts({**message, "content": "4"})
    assert thought["metadata"] == {"title": "Thought for 3 s", "status": "done"}
    assert (said["content"], "metadata" in said) == ([{"type": "text", "text": "4"}], False)


def test_a_servers_words_are_escaped() -> None:
    assert "<b>x</b>" not in measured(StreamedAnswer(error="<b>x</b>"))
    assert "<i>" not in heading("<i>") + heading(ServedModels("<i>", "<i>", ("<i>",), 10))
