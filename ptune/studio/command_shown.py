"""How a tab shows the command for what it does."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import gradio as gr


def command_line(label: str = "The same on the command line, in the studio's folder") -> gr.Textbox:
    """A line to copy; hidden until there is a command."""
    return gr.Textbox(
        label=label,
        interactive=False,
        visible=False,
        buttons=["copy"],
        elem_classes="command",
        lines=1,
        max_lines=4,
    )


def shows(command: Sequence[str]) -> dict[str, object]:
    """The update of a `command_line`."""
    update: dict[str, object] = gr.update(value=shlex.join(command), visible=bool(command))
    return update
