"""The fields that say which running server is meant."""

from __future__ import annotations

import gradio as gr


def server_fields(prefix: str, key_label: str) -> tuple[gr.Dropdown, gr.Textbox]:
    """A menu of servers into which an address can be written, and beside it the server's key. prefix: of their ids on the page."""
    with gr.Row():
        server = gr.Dropdown(
            [], label="Server", elem_id=f"{prefix}-server", allow_custom_value=True, interactive=True,
            info="one of this studio's, or an address", scale=3,
        )  # fmt: skip
        key = gr.Textbox(
            label=key_label, info="if it asks for one", type="password", elem_id=f"{prefix}-key", scale=2
        )
    return server, key
