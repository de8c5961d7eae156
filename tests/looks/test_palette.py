"""Text can be read on what it stands on, light and dark; and every colour is in one place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ptune.looks.palette import DARK, LIGHT, OF_FILES, OF_PAGES, Palette

ROOT = Path(__file__).parents[2]
DRAWN = ROOT / "serve" / "ui" / "pictures.py"  # a picture, which has colours as a photograph has


def contrast(one: str, other: str) -> float:
    """WCAG 2.2's contrast ratio of two colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_the_ratio_is_that_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(
        4.54, abs=0.005
    )  # WCAG's own example of a grey that just passes


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_text_can_be_read(palette: Palette) -> None:
    texts = (palette.ink, palette.dim, palette.good, palette.bad, *palette.lines)
    for ground in (palette.paper, palette.card):
        assert min(contrast(text, ground) for text in texts) >= 4.5
        assert contrast(palette.mark, ground) >= 3  # of what is no text: WCAG 2.2, 1.4.11


@pytest.mark.parametrize("css", [OF_FILES, OF_PAGES], ids=["files", "pages"])
def test_both_have_all_colours_and_are_light_on_paper(css: str) -> None:
    names = {"ink", "dim", "line", "paper", "card", "mark", "good", "bad", *(f"line-{at}" for at in range(6))}
    printed = css.partition("@media print")[2]
    for part in (css, printed):
        assert {*re.findall(r"--([\w-]+):", part)} == names
    assert "--paper: #ffffff" in printed
    assert "--paper: #020617" not in printed


def test_no_other_file_has_colours_of_its_own() -> None:
    folders = ("ptune/evaluation", "ptune/tuning", "ptune/studio", "serve/ui")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py") if path != DRAWN]
    assert len(files) > 50
    own = {
        path.name: re.findall(r"#[0-9a-fA-F]{6}\b|#[0-9a-fA-F]{3}\b(?=;)", path.read_text()) for path in files
    }
    assert {name: found for name, found in own.items() if found} == {}
