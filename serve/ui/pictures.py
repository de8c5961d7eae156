"""Three example drawings for image classifiers, of things in both clothes catalogues and everyday pictures."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

Outline = tuple[tuple[float, float], ...]

_DRAWINGS: dict[str, tuple[str, Outline]] = {
    "shirt": (
        "#c8d3e0",
        ((.35, .12), (.45, .18), (.55, .18), (.65, .12), (.92, .28), (.84, .45), (.70, .38), (.70, .90), (.30, .90), (.30, .38),
         (.16, .45), (.08, .28)),
    ),
    "boot": (
        "#b9824f",
        ((.36, .10), (.60, .10), (.60, .52), (.74, .60), (.90, .66), (.93, .82), (.90, .86), (.36, .86)),
    ),
    "bag": (
        "#d06a5c",
        ((.20, .40), (.33, .40), (.36, .22), (.64, .22), (.67, .40), (.80, .40), (.88, .88), (.12, .88)),
    ),
}  # fmt: skip


@functools.cache
def examples() -> tuple[str, ...]:
    """The files of the drawings, drawn on black at the first use."""
    from PIL import Image, ImageDraw

    folder = Path(tempfile.mkdtemp(prefix="ptune-pictures-"))
    size, finer = 224, 4
    for name, (colour, outline) in _DRAWINGS.items():
        image = Image.new("RGB", (size * finer, size * finer), "black")
        ImageDraw.Draw(image).polygon([(x * size * finer, y * size * finer) for x, y in outline], fill=colour)
        image.resize((size, size), Image.Resampling.LANCZOS).save(folder / f"{name}.png")
    return tuple(str(folder / f"{name}.png") for name in _DRAWINGS)
