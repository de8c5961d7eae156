"""Fonts of the system, so that nothing is fetched."""

from __future__ import annotations

FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
MONOSPACE = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")


def family(names: tuple[str, ...]) -> str:
    """As a value of CSS."""
    return ", ".join(f'"{name}"' if " " in name else name for name in names)
