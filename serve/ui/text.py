"""Text of the chat page: messages as Markdown without HTML, and lines about answers."""

from __future__ import annotations

import re
from html import escape
from typing import Any

from .client import Message, ServedModels, StreamedAnswer

_BREAK = "\u2060"  # word joiner: invisible, and enough to break a tag
_FENCE = re.compile(r"(`{3,})[^`]*|(~{3,}).*")  # not indented, so no list or quotation can end it early
_TAG = re.compile(r"<(?=[A-Za-z/!?])")


def neutral(text: str) -> str:
    """Markdown without HTML, images and diagrams, which would run or load in the reader's browser.

    Fenced code stays as it is, since Markdown shows it literally, so that it can be copied. The page's sanitizer and
    its content security policy stand behind this.
    """
    lines = []
    fence = ""  # the open fence, if any
    for line in re.split("\r\n|\r|\n", text):
        opening = _FENCE.fullmatch(line)
        if fence:
            fence = "" if re.fullmatch(rf" {{0,3}}{fence}{fence[0]}*[ \t]*", line) else fence
        elif opening:
            fence = opening[1] or opening[2]
            line = line.replace("mermaid", "text")  # code that would be drawn
        else:
            line = _TAG.sub("<" + _BREAK, line).replace("![", "!" + _BREAK + "[")
        lines.append(line)
    return "\n".join(lines)


def plain(shown: str) -> str:
    """Undoes `neutral`, to send a message that was edited on the page."""
    return shown.replace("<" + _BREAK, "<").replace("!" + _BREAK + "[", "![")


def shown_parts(message: Message) -> list[dict[str, Any]]:
    """A message as the chatbot shows it: what was thought, folded once the answer begins, and what is said."""
    parts: list[dict[str, Any]] = []
    if thought := message.get("reasoning_content"):
        title, status = f"Thought for {max(1, round(float(message['thought_s'])))} s", "done"
        if "thinking" in message:
            title, status = "Thinking …", "pending"
        parts.append({**_part(message["role"], thought), "metadata": {"title": title, "status": status}})
    if message["content"] or not parts:
        parts.append(_part(message["role"], message["content"]))
    return parts


def _part(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": neutral(text)}]}


def measured(answer: StreamedAnswer) -> str:
    """The line below an answer as HTML: length, speed, whether it was cut off, or the error."""
    if answer.error is not None:
        return f'<span class="problem" role="alert">{escape(answer.error)}</span>'
    if answer.first_token_s is None:
        return '<span class="quiet">Waiting for the first token …</span>'
    parts = ["1 token" if answer.tokens == 1 else f"{answer.tokens} tokens"]
    if answer.tokens_per_s is not None:
        parts.append(f"{answer.tokens_per_s:.1f} tokens/s")
    parts.append(f"first token after {answer.first_token_s:.2f} s")
    if answer.finish == "length":
        parts.append("cut off")
    return f'<span class="quiet">{" · ".join(parts)}</span>'


def heading(served: ServedModels | str) -> str:
    """The heading of the page as HTML: what is served, or the error."""
    if isinstance(served, str):
        return f'<h1>ptune</h1><p class="problem" role="alert">{escape(served)}</p>'
    if served.bundles:
        names = ", ".join(f"<b>{escape(name)}</b>" for name in served.bundles)
        return f"<h1>ptune</h1><p>Served by ptune · bundles {names} · each is loaded when it is asked for</p>"
    if served.classifiers:
        adapters = ", ".join(
            f"<b>{escape(one.name)}</b> ({escape(one.task.replace('-', ' '))})" for one in served.classifiers
        )
        return (
            f"<h1>{escape(served.bundle)}</h1>"
            f"<p>Served by ptune · encoder <b>{escape(served.source)}</b> · {adapters}</p>"
        )
    adapters = ", ".join(f"<b>{escape(name)}</b>" for name in served.adapters) or "none"
    word = "adapter" if len(served.adapters) == 1 else "adapters"
    return (
        f"<h1>{escape(served.bundle)}</h1>"
        f"<p>Served by ptune · base <b>{escape(served.source)}</b> · {word} {adapters} · context {served.context:,} tokens</p>"
    )
