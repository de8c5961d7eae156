"""The colours, light and dark, as CSS variables. On paper everything is light.

Text has at least 4.5:1 against what it stands on (WCAG 2.2, 1.4.3), and lines of a chart are told apart by their lightness, too.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Palette:
    """Colours by what they are for, as #rrggbb."""

    ink: str  # text
    dim: str  # what is said beside it
    line: str  # borders, and grids of charts
    paper: str
    card: str  # what stands out from the paper a little
    mark: str  # bars, progress, what is chosen
    good: str
    bad: str
    lines: tuple[str, ...]  # of a chart, the first ones most often

    def variables(self) -> str:
        """As declarations of CSS: --ink … --bad, and --line-0 … of a chart."""
        named = {name: value for name, value in vars(self).items() if name != "lines"}
        numbered = {f"line-{at}": value for at, value in enumerate(self.lines)}
        return " ".join(f"--{name}: {value};" for name, value in (named | numbered).items())


LIGHT = Palette(
    ink="#1e293b",
    dim="#475569",
    line="#e2e8f0",
    paper="#ffffff",
    card="#f8fafc",
    mark="#6366f1",
    good="#15803d",
    bad="#b42318",
    lines=("#4f46e5", "#b45309", "#15803d", "#be185d", "#0e7490", "#6d28d9"),
)
DARK = Palette(
    ink="#f1f5f9",
    dim="#a3b1c6",
    line="#334155",
    paper="#020617",
    card="#0f172a",
    mark="#818cf8",
    good="#5fd38a",
    bad="#ff8a7a",
    lines=("#9aa5ff", "#f5b74f", "#5fd38a", "#ff8ab8", "#5cd6e6", "#c4a1ff"),
)

OF_FILES = f"""
:root {{ color-scheme: light dark; {LIGHT.variables()} }}
@media (prefers-color-scheme: dark) {{ :root {{ {DARK.variables()} }} }}
@media print {{ :root {{ color-scheme: light; {LIGHT.variables()} }} }}
"""
"""For a file that follows the browser."""

OF_PAGES = f"""
:root {{ {LIGHT.variables()} }} .dark {{ {DARK.variables()} }}
@media print {{ :root, .dark {{ color-scheme: light; {LIGHT.variables()} }} }}
"""
"""For gradio's pages, which are dark where something has the class `dark`."""
