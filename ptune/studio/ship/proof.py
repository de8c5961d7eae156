"""The proof of an export as the page shows it: the hops that were measured so far, and what is measured now."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ptune.formats.bundle import BASE, Bundle, Hop
from ptune.formats.gguf_export import RECORD
from ptune.formats.hop_cells import Verdict, figures, verdict
from ptune.formats.hop_log import Followed, read_hop_log
from ptune.formats.whole_write import read_json
from ptune.studio.jobs.log import last_error
from ptune.studio.jobs.queue import Job
from ptune.studio.sheet import Cell, Content, Tone, note, sheet

HEADS = ("under", "hop", "prompts", "max |Δ log p|", "mean KL", "top-1", "rel. L2", "limit", "verdict")
WORDS = (0, 1, 7, 8)
ANYWAY = "Even if no better than a baseline"
"""The checkbox of the tab Ship that is --anyway."""
NOT_MEANT = "A quick look of 20 steps is not meant to beat a baseline: train it longer."
_TONES: Mapping[Verdict, Tone] = {"ok": "good", "not used": "quiet", "DRIFTS": "bad"}
_LARGEST = re.compile(r"max \|Δ[^≤]*≤ ([\d.e+-]+)$")


def hop_log_of(own: Path, name: str, *, gguf: bool) -> Path:
    """Where an export of a run notes its hops, in the studio's own folder."""
    return own / "hops" / f"{name}.{'gguf' if gguf else 'bundle'}.jsonl"


def followed(job: Job, folder: Path) -> Followed:
    """What an export job has noted, in the file that its command names; nothing while it waits."""
    words = list(job.command)
    if job.state == "waiting" or "--hop-log" not in words[:-1]:
        return Followed()
    return read_hop_log(folder / words[words.index("--hop-log") + 1])


def recorded(place: Path) -> dict[str, tuple[Hop, ...]]:
    """The hops that a finished bundle or GGUF export holds. Raises: FormatError."""
    if (place / RECORD).is_file():
        return {place.name: tuple(map(Hop.model_validate, read_json(place / RECORD).get("hops", [])))}
    bundle = Bundle.open(place)
    adapters = {name: bundle.adapter(name).hops for name in bundle.manifest.adapters}
    return {BASE: bundle.manifest.hops, **adapters}


def told(hops: Mapping[str, Sequence[Hop]]) -> str:
    """What the figures of a proof that is complete say, in a sentence, as HTML."""
    every = [hop for measured in hops.values() for hop in measured if hop.passed or not hop.form]
    drift = [hop.name for hop in every if not hop.passed]
    if drift or not every:
        return note(f"Beyond the limit: {', '.join(drift)}.", "bad") if drift else ""
    sizes = [
        (hop.max_abs_logprob, float(found[1]))
        for hop in every
        if hop.max_abs_logprob is not None and (found := _LARGEST.search(hop.limit))
    ]
    sentence = "The served model gives the same answers as the trained one:"
    if not sizes:
        return note(f"{sentence} every hop is within its limit.", "good")
    largest, limit = max(sizes)
    return note(f"{sentence} the largest difference is {_short(largest)} (limit {_short(limit)}).", "good")


def _short(value: float) -> str:
    """A small number with one digit: 7e-5."""
    return re.sub(r"e([+-])0*", r"e\1", f"{value:.0e}") if value else "0"


def table(hops: Mapping[str, Sequence[Hop]], title: str, inputs: str = "prompts") -> str:
    """The table, as the command prints it, the base first. Empty before the first hop. inputs: what is compared."""
    own = {name: found for name, found in hops.items() if name != BASE}
    rows = list(_rows({BASE: hops[BASE], **own} if BASE in hops else own))  # as the command prints it
    heads = [inputs if head == "prompts" else head for head in HEADS]
    return sheet(title, heads, rows, words=WORDS) if rows else ""


def _rows(hops: Mapping[str, Sequence[Hop]]) -> Iterator[tuple[Content, ...]]:
    for name, measured in hops.items():
        for hop in measured:
            yield (
                name,
                Cell(hop.name, hop.note),
                str(hop.prompts),
                *figures(hop, "–"),
                hop.limit,
                _coloured(verdict(hop)),
            )


def _coloured(word: Verdict) -> Cell:
    return Cell(word, tone=_TONES[word])


def state(job: Job, so_far: Followed, log: str) -> str:
    """A line on where an export is, as HTML."""
    count = sum(map(len, so_far.hops.values()))
    hops = f"{count} hop{'s' * (count != 1)} measured"
    if job.state == "waiting":
        return note("Waiting for the job before it.")
    if job.state == "running":
        now = so_far.stages[-1] if so_far.stages else "reading the run"
        return note(f"Now: {now} · {hops}")
    if job.state == "done":
        return note(f"Exported: {hops}, none beyond its limit.", "good")
    if job.state == "stopped":
        return note(f"Stopped: {hops}, and nothing was left half-written. Export again to begin anew.")
    why = last_error(log)
    here = f". On this page that is the box “{ANYWAY}”. {NOT_MEANT}" if "--anyway" in why else ""
    return note(f"Not exported: {why}{here}", "bad")
