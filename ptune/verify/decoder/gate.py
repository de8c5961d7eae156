"""A gate of a decoder's graph: log-probabilities of held-out text against those of another graph, for the base and adapters.

Where ptune-kernels is installed, what a server computes of the graph is held to the same gate on the same text, by the engine.
It is measured beside the graph, so that the other one is computed once. Only where it misses the gate, the own operators that a
server would try next are measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from itertools import pairwise

from ptune.engine.adapters.lora import load_adapter
from ptune.engine.decoder.engine import Engine
from ptune.engine.decoder.forms import Form
from ptune.engine.decoder.inputs.lora_slots import LoraSlots
from ptune.formats.bundle import BASE, Bundle, Hop
from ptune.formats.hop_log import note_hops
from ptune.parity import Array, Comparison, log_softmax
from ptune.progress import Progress
from ptune.verify.decoder.graph import PlainGraph
from ptune.verify.decoder.held_tokens import OwnPart, own_parts
from ptune.verify.decoder.plain_ends import PlainEnds
from ptune.verify.proof import Proof
from ptune.verify.reference import Factors

CHUNK = 256  # prompt tokens a step


@dataclass(frozen=True)
class Gate:
    """What graphs are compared with, on which text, and within which limits."""

    bundle: Bundle
    title: str  # of the hop
    right: PlainGraph
    held: Sequence[Sequence[int]]
    threads: int
    limits: Mapping[str, float]  # as `Comparison.hop` takes them
    note: str
    to_the_end: bool = False  # after a hop beyond its limit, too

    def hops(self, graph: PlainGraph, forms: Sequence[Form], names: Sequence[str]) -> dict[str, list[Hop]]:
        """Compares the graph, and what servers compute of it, under each name. forms: as `to_measure` has them."""
        hops = self._compared(names, graph, next(iter(forms), None))
        if not Proof.of(hops).passed:
            return hops
        adapters = [name for name in names if name != BASE]
        for before, form in pairwise(forms):
            if all(hop.passed for of_name in hops.values() for hop in of_name if hop.form == before.name):
                break
            for name, more in self._compared(adapters, None, form).items():
                hops[name] += more
        return hops

    def _compared(
        self, names: Sequence[str], graph: PlainGraph | None, form: Form | None
    ) -> dict[str, list[Hop]]:
        """Hops of the graph and of the form; without a graph, or a form, those of the other."""
        hops: dict[str, list[Hop]] = {}
        own: AbstractContextManager[Engine | None] = nullcontext()
        if form is not None and any(form.attends or name != BASE for name in names):
            own = closing(opened(self.bundle, form, self.threads))
        with (
            Progress(f"  {self.title}", len(names) * len(self.held), unit="texts") as progress,
            own as engine,
        ):
            for name in names:
                hops[name] = self._under(name, graph, engine, progress)
                note_hops(name, hops[name])
                if not (self.to_the_end or Proof.of(hops).passed):
                    break
        return hops

    def _under(
        self, name: str, graph: PlainGraph | None, engine: Engine | None, progress: Progress
    ) -> list[Hop]:
        """The same under one name."""
        parts = plugs(self.bundle, name)
        room = self.bundle.decoder.context - parts[1].before
        texts = [
            (parts[1].invoked(ids[:room], start), start)
            for ids, start in own_parts(self.held)
            if start < min(len(ids), room)
        ]
        sides: list[tuple[Form | None, Iterator[Array]]] = []
        if graph is not None:
            sides.append((None, logprobs(graph, texts, *parts)))
        if engine is not None and engine.form is not None and (engine.form.attends or name != BASE):
            sides.append((engine.form, of_engine(engine, texts, name)))
        comparisons = [Comparison() for _ in sides]
        rows = (rows for _, rows in sides)
        for expected, *found in zip(logprobs(self.right, texts, *parts), *rows, strict=True):
            for comparison, here in zip(comparisons, found, strict=True):
                comparison.add(expected, here)
            progress.advance()
        return [
            comparison.hop(self.title, note=self.note, **self.limits)
            if form is None
            else form.marked(comparison.hop(self.title, note="", **self.limits))
            for (form, _), comparison in zip(sides, comparisons, strict=True)
        ]


def opened(bundle: Bundle, form: Form, threads: int) -> Engine:
    """An engine that computes just this form, one text at a time."""
    return Engine.open(
        bundle,
        profile=form.profile,
        threads=threads,
        max_rows=1,
        prefill_chunk=CHUNK,
        kv_cache_dtype=form.cache,
        kernels=form.choice,
        replay_golden=False,
    )


def of_engine(engine: Engine, texts: Sequence[OwnPart], name: str) -> Iterator[Array]:
    """The engine's log-probabilities of each text's own part."""
    return (
        log_softmax(engine.logits([ids], [name], positions=[range(start, len(ids))])[0])
        for ids, start in texts
    )


def logprobs(
    graph: PlainGraph, texts: Sequence[OwnPart], factors: Factors | None, of_ends: PlainEnds
) -> Iterator[Array]:
    """The graph's log-probabilities of each text's own part."""
    return (graph.logprobs(ids, range(start, len(ids)), factors, of_ends) for ids, start in texts)


def plugs(bundle: Bundle, name: str) -> tuple[Factors | None, PlainEnds]:
    """An adapter's factors, padded to the same rank in every socket, and what it changes at the ends; none for the base."""
    if name == BASE:
        return None, PlainEnds()
    adapter = load_adapter(bundle.adapter_path(name), bundle.decoder)
    inputs = LoraSlots(bundle.decoder, 1).of([adapter]).inputs
    factors = {socket: (inputs[f"{socket}.A"][0], inputs[f"{socket}.B"][0]) for socket in adapter.factors}
    return factors, PlainEnds.of_engine(adapter)
