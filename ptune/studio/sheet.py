"""Tables of the tabs Judge, Ship and Serve as HTML: figures with what stands below them, states that are told by words, too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal, TypeAlias

CHOOSES = """
element.addEventListener('click', event => {
  const button = event.target.closest('button');
  if (button && Object.keys(button.dataset).length) trigger('click', {...button.dataset});
});
"""
"""Of HTML whose buttons choose something: the click event has what their data-… attributes say."""

Tone: TypeAlias = Literal["", "good", "bad", "quiet"]


@dataclass(frozen=True)
class Cell:
    """A figure, or a few words. below: in small letters; tone: a colour, never the only sign of what it says."""

    text: str
    below: str = ""
    tone: Tone = ""


Content: TypeAlias = str | Cell


def sheet(
    caption: str, heads: Sequence[str], rows: Sequence[Sequence[Content]], *, words: Sequence[int] = (0,)
) -> str:
    """A table that scrolls sideways where there is no room. words: columns of words, which stand left; others are figures."""
    kinds = ["words" if at in words else "figure" for at in range(len(heads))]
    head = "".join(
        f'<th scope="col" class="{kind}">{escape(name)}</th>' for name, kind in zip(heads, kinds, strict=True)
    )
    body = "".join(f"<tr>{_row(row, kinds)}</tr>" for row in rows)
    return (
        f'<div class="sheet" tabindex="0" role="region" aria-label="{escape(caption)}"><table><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _row(row: Sequence[Content], kinds: Sequence[str]) -> str:
    cells = []
    for at, (content, kind) in enumerate(zip(row, kinds, strict=True)):
        cell = content if isinstance(content, Cell) else Cell(content)
        below = f"<small>{escape(cell.below)}</small>" if cell.below else ""
        tag, scope = ("th", ' scope="row"') if at == 0 else ("td", "")
        tone = f" {cell.tone}" if cell.tone else ""
        cells.append(f'<{tag}{scope} class="{kind}{tone}">{escape(cell.text)}{below}</{tag}>')
    return "".join(cells)


def shortened(text: str, longest: int) -> str:
    """The beginning of a text that has more characters, with an ellipsis."""
    return text if len(text) <= longest else f"{text[:longest].rstrip()} …"


def note(text: str, tone: Tone = "quiet") -> str:
    """A sentence; nothing for none."""
    return f'<p class="note {tone}" role="status">{escape(text)}</p>' if text else ""


def error(text: str) -> str:
    """An error, in one sentence."""
    return f'<p class="problem" role="alert">{escape(text)}</p>' if text else ""


def opens(address: str, text: str) -> str:
    """A link that opens a page beside this one."""
    return f'<a href="{escape(address)}" target="_blank" rel="noopener">{escape(text)}</a>'


def size(count: float) -> str:
    """Bytes in words: 950 B, 12 kB, 3.4 MB, 1.2 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit in ("B", "kB") or count >= 100 else f"{count:.1f} {unit}"


CSS = """
.sheet { overflow-x: auto; border: 1px solid var(--line); border-radius: var(--radius-lg); }
.sheet + .sheet, .sheet + .note, .note + .sheet { margin-top: 1rem; }
#judge-figures details { margin: 0.6rem 0 1rem; } #judge-figures summary { cursor: pointer; margin-bottom: 0.4rem; }
.sheet:focus-visible { outline: 2px solid var(--mark); outline-offset: 2px; }
.sheet caption { caption-side: top; text-align: left; padding: 0.6rem 0.9rem; font-weight: 600; }
.sheet th, .sheet td { padding: 0.4rem 0.9rem; }
.sheet tr:last-child > * { border-bottom: 0 !important; } .sheet thead tr:last-child > * { border-bottom: 1px solid var(--line) !important; }
.sheet thead th { font-weight: 500; white-space: normal; min-width: 4rem; }
.sheet tbody th { font-weight: 500; color: var(--ink); }
.sheet .words { min-width: 8rem; overflow-wrap: anywhere; }
.sheet .figure { white-space: nowrap; }
.sheet thead .figure { white-space: normal; }
.sheet .good, .note.good { color: var(--good); }
.sheet .bad, .note.bad { color: var(--bad); font-weight: 600; }
.sheet .quiet, .note.quiet { color: var(--dim); }
.answer p { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; }
div.answer { border: 1px solid var(--line); border-radius: var(--radius-lg); padding: 0.75rem; }
#page .answer h3, #page #blind-prompt h3 { font-size: 0.8rem; font-weight: 500; margin: 0 0 0.3rem; }
#blind-prompt p { white-space: pre-wrap; overflow-wrap: anywhere; font-weight: 600; margin: 0; }
iframe.report { width: 100%; height: 70vh; border: 1px solid var(--line); border-radius: var(--radius-lg); background: Canvas; }
.downloads { list-style: none; padding: 0; margin: 0; display: flex; flex-wrap: wrap; gap: 0.4rem 1.5rem; }
.downloads a, .note a { color: var(--line-0); text-decoration: underline; }
.note, p.problem { margin: 0.3rem 0; overflow-wrap: anywhere; white-space: pre-line; }
"""
