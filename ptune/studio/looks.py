"""What the studio's page has beyond the style of the chat page: command lines, tables, charts, states."""

from __future__ import annotations

CSS = """
.command textarea, .command input { font-family: var(--font-mono) !important; font-size: 0.85rem; }
"""
