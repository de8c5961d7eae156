"""When an open page reads the files again: for what can be seen, every two seconds, and at once when it comes into sight.

A tab that is not chosen, and a page in a window or behind a tab of the browser that nobody sees, ask for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ptune.studio.studio import QUIET

BEAT_S = 2.0
LOOK: dict[str, Any] = {**QUIET, "queue": False}
"""Options of what only reads: one request an event, where gradio's queue takes two and a stream."""

CSS = (
    ".heart { position: fixed; top: 0; left: 0; width: 1px; height: 1px; padding: 0; pointer-events: none; }"
)

_BEATS = f"""
const beat = () => {{ if (!document.hidden && element.checkVisibility()) trigger('tick'); }};
const shown = new IntersectionObserver(([seen]) => {{ if (seen.isIntersecting) beat(); }});
shown.observe(element);
document.addEventListener('visibilitychange', beat);
const every = setInterval(() => {{
  if (element.isConnected) return beat();
  clearInterval(every); shown.disconnect(); document.removeEventListener('visibilitychange', beat);
}}, {1000 * BEAT_S:.0f});
"""


def heart() -> gr.HTML:
    """A part without a look of its own, whose `tick` comes while what it stands in can be seen."""
    return gr.HTML(js_on_load=_BEATS, elem_classes="heart")


@dataclass(frozen=True)
class Look:
    """What of a tab is read again. read: gives the updates of `changes` for the values of `given`: one for each, a dict of
    those that have changed, or gr.skip() for none."""

    read: Callable[..., Any]
    given: Sequence[Any]
    changes: Sequence[Any]

    def updates(self, values: Sequence[Any]) -> list[Any]:
        """An update for each of `changes`."""
        told = self.read(*values)
        if isinstance(told, dict):
            return [told.get(one, gr.skip()) for one in self.changes]
        return [told] if len(self.changes) == 1 else list(told)


def together(looks: Sequence[Look]) -> tuple[Callable[..., list[Any]], list[Any], list[Any]]:
    """Several looks as one event, so that one request brings all: its function, what it is given and what it changes."""

    def read(*values: Any) -> list[Any]:
        updates, at = [], 0
        for look in looks:
            updates += look.updates(values[at : at + len(look.given)])
            at += len(look.given)
        return updates

    return (
        read,
        [one for look in looks for one in look.given],
        [one for look in looks for one in look.changes],
    )
