"""What every report must be: one HTML page whose tags close in order and that loads nothing from elsewhere."""

from __future__ import annotations

from html.parser import HTMLParser

_VOID = {"meta", "line", "circle", "polyline", "br", "img", "rect"}


class Outline(HTMLParser):
    """Checks that tags close in order and that nothing is loaded from elsewhere."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        for name, value in attributes:
            assert name not in ("href", "srcset", "onclick", "onload")
            assert name != "src" or (value or "").startswith("data:image/")
            assert name != "style" or "url(" not in (value or "")
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in _VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
