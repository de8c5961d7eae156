"""The theme of the pages: gradio's plain one, with our fonts and colours."""

from __future__ import annotations

import gradio as gr

from ptune.looks.fonts import FONT, MONOSPACE

_OURS = {
    "body_text_color": "ink",
    "body_text_color_subdued": "dim",
    "block_info_text_color": "dim",
    "block_label_text_color": "ink",
    "block_title_text_color": "ink",
    "input_placeholder_color": "dim",
    "border_color_primary": "line",
    "block_border_color": "line",
    "background_fill_primary": "paper",
    "background_fill_secondary": "card",
    "error_text_color": "bad",
    "link_text_color": "line-0",
    "input_border_color_focus": "mark",
}
"""Gradio's name -> the variable of `ptune.looks.palette`, which has a value for light, dark and print."""


def theme() -> gr.themes.Base:
    """The theme, for light and dark."""
    plain = gr.themes.Base(
        primary_hue="indigo", neutral_hue="slate", font=FONT, font_mono=MONOSPACE, radius_size="lg"
    )
    ours = {f"{name}{mode}": f"var(--{ours})" for name, ours in _OURS.items() for mode in ("", "_dark")}
    return plain.set(
        **ours,
        input_background_fill="*background_fill_primary",
        input_background_fill_dark="*background_fill_primary",
        checkbox_background_color_dark="*background_fill_primary",
        block_background_fill_dark="*background_fill_secondary",
        input_border_width="1px",
        input_shadow_focus="0 0 0 2px var(--mark)",
        input_shadow_focus_dark="0 0 0 2px var(--mark)",
        button_primary_background_fill="*primary_600",  # white on the lighter one has 4.47:1
        button_secondary_background_fill="*background_fill_primary",
        button_secondary_background_fill_dark="*border_color_primary",
        button_secondary_background_fill_hover="*background_fill_secondary",
        button_secondary_border_color="*border_color_primary",
        button_border_width="1px",
    )
