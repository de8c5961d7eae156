"""Lines of the chat page about answers, and its heading."""

from __future__ import annotations

from html import escape

from .answer import StreamedAnswer
from .client import ServedModels
from .thread import Answer


def measured(answer: StreamedAnswer) -> str:
    """The line below an answer as HTML: length, speed, whether it was cut off, or the error."""
    if answer.error is not None:
        return problem(answer.error)
    if answer.first_token_s is None:
        return '<span class="quiet">Waiting for the first token …</span>'
    parts = ["1 token" if answer.tokens == 1 else f"{answer.tokens} tokens"]
    if answer.tokens_per_s is not None:
        parts.append(f"{answer.tokens_per_s:.1f} tokens/s")
    parts.append(f"first token after {answer.first_token_s:.2f} s")
    if answer.finish == "length":
        parts.append("cut off")
    if answer.finish == "tool_calls":
        parts.append("your next message is what the function returns")
    return f'<span class="quiet">{" · ".join(parts)}</span>'


def problem(message: str) -> str:
    """An error as HTML."""
    return f'<span class="problem" role="alert">{escape(message)}</span>'


def named(answer: Answer | None) -> str:
    """The line below an answer that was given earlier."""
    if answer is None:
        return ""
    corrected = "" if answer.correction is None else " · corrected"
    return f'<span class="quiet">{escape(answer.model)}{corrected}</span>'


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
