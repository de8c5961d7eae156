"""What stands in the `<head>` of every page, of the server and of the studio."""

from __future__ import annotations

from pathlib import Path

from ptune.looks.palette import OF_PAGES


def script(name: str) -> str:
    """One of the scripts beside this file, as an element."""
    return f"<script>{(Path(__file__).parent / name).read_text(encoding='utf-8')}</script>"


_STYLE = f"<style>{OF_PAGES} :root:root, .dark.dark {{ --color-accent: var(--line-0); }}</style>"
"""As it is: gradio rewrites the selectors of CSS that it is given, those for print wrongly."""

HEAD = _STYLE + script("menus.js")
