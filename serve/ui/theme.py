"""The theme of the pages: gradio's plain one, with our fonts and quiet colours."""

from __future__ import annotations

import gradio as gr

from .style import FONT, MONOSPACE


def theme() -> gr.themes.Base:
    """The theme, for light and dark."""
    return gr.themes.Base(
        primary_hue="indigo", neutral_hue="slate", font=FONT, font_mono=MONOSPACE, radius_size="lg"
    ).set(
        input_background_fill="*background_fill_primary",
        input_background_fill_dark="*neutral_900",
        input_border_width="1px",
        block_border_color="*neutral_200",
        block_label_text_color="*body_text_color",
        button_secondary_background_fill="*background_fill_primary",
        button_secondary_background_fill_hover="*background_fill_secondary",
        button_secondary_border_color="*border_color_primary",
        button_border_width="1px",
    )
