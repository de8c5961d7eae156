"""Proves a decoder's bundle: torch -> ONNX -> engine -> server, for the bare base and every adapter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from peft import PeftModel
from transformers import PreTrainedModel

from ptune.engine.adapters.fold.fold import own_files
from ptune.engine.adapters.lora import load_adapter
from ptune.engine.decoder.engine import Engine
from ptune.engine.decoder.forms import Form, to_measure
from ptune.engine.decoder.inputs.images import Picture
from ptune.engine.memory import trim
from ptune.errors import AdapterError
from ptune.formats.bundle import BASE, FLOAT_CACHE, Bundle, Hop
from ptune.formats.hop_log import note_hops
from ptune.parity import Array, Comparison, compare, liveness, log_softmax
from ptune.verify import limits
from ptune.verify.decoder import company, seen_images
from ptune.verify.decoder.graph import PlainGraph
from ptune.verify.decoder.plain_ends import PlainEnds, with_rows
from ptune.verify.decoder.probes import ROOM
from ptune.verify.decoder.seen_images import Seen, vision_of
from ptune.verify.decoder.server import Continuation, continuations, served_hops
from ptune.verify.decoder.torch_side import Probe, logprobs
from ptune.verify.proof import Proof
from ptune.verify.reference import (
    Factors,
    adapted,
    base_kept,
    biases_kept,
    lora_layers,
    peft_factors,
    plugged,
    random_factors,
    with_peft_biases,
)
from ptune.verify.spool import spooled

AT_ONCE = 4  # probes in the engine at once, each under every name: all their wanted logits are in memory


@dataclass(frozen=True)
class Expected:
    """Torch's log-probabilities of each probe, and what an adapter plugs in, as in peft."""

    logprobs: list[Array]
    probes: Sequence[Probe]
    factors: Factors | None = None
    ends: PlainEnds = field(default_factory=PlainEnds)
    uncut: list[Array] | None = None  # of an adapter that was cut to a rank: log-probabilities before
    cut: str = ""  # what the adapter was, and at which rank it is served


@dataclass(frozen=True)
class TorchSide:
    """What torch computes: with the bare base, with random factors in every socket, and with each adapter."""

    base: Expected
    everywhere: Expected
    adapters: Mapping[str, Expected]
    seen: Seen | None = None  # of the probes' images, where the model sees any


def torch_side(
    bundle: Bundle, model: PreTrainedModel, adapters: Mapping[str, Path], probes: Sequence[Probe]
) -> TorchSide:
    """Computes what the bundle's hops are compared with; leaves `model` as it was.

    model: the plain float32 reference (a quantised base dequantised). adapters: the PEFT folders to prove.
    """
    seen = _seen_by_torch(bundle, model)
    random, random_ends = random_factors(bundle.decoder), PlainEnds.random(bundle.decoder)
    base = Expected(logprobs(model, probes), probes)
    with random_ends.plugged(model, bundle.decoder.ends), plugged(model, random):  # gains come first
        everywhere = Expected(logprobs(model, probes), probes, random, random_ends)
    there = {name: _peft_reference(model, folder, probes, bundle, name) for name, folder in adapters.items()}
    return TorchSide(base, everywhere, there, seen)


def prove(
    bundle: Bundle,
    torch: TorchSide,
    *,
    threads: int,
    server: bool = True,
    report: Callable[[str], None] = lambda _: None,
) -> Proof:
    """Measures every hop of `bundle`'s reference graph against the one before; other profiles: `ptune.verify.decoder.profile`.

    torch: dropped as soon as the graph was compared with it, if the caller keeps no other name for it.
    """
    asked = {BASE: torch.base.probes, **{name: one.probes for name, one in torch.adapters.items()}}
    report("the ONNX graph")
    there, seen = torch.seen, _seen_by_graph(bundle, threads)
    hops, here = _by_graph(bundle, torch, threads, seen)
    if there is not None and seen is not None:
        hops[BASE].insert(0, seen_images.hop(there, seen))
        note_hops(BASE, hops[BASE][:1])
    pictures = () if seen is None else seen.pictures
    del torch

    report("the engine")
    plain = Form.of(bundle, bundle.reference, FLOAT_CACHE, "exact")
    own = [form for form in to_measure(bundle, bundle.reference) if form.attends]
    for form in (plain, *own):
        found, answers = _by_engine(bundle, form, here, asked, threads, pictures)
        passed = all(hop.passed for hop in found.values())
        if form is plain or passed:
            served, expected = form.choice, answers
        for name, hop in found.items():
            hops[name].append(hop if form is plain else form.marked(hop))
            note_hops(name, hops[name][-1:])
        if not passed:
            break
    del here
    report("alone and in company")
    held = [probe.ids for probe in asked[BASE]]
    hops[BASE].append(company.hop(bundle, bundle.reference, held, threads=threads, pictures=pictures))
    note_hops(BASE, hops[BASE][-1:])
    if server:  # after the engine is closed, so that memory holds the graph once
        report("the server")
        trim()  # what the engine has left: the server is a process of its own
        for name, hop in served_hops(bundle, expected, threads, served).items():
            hops[name].append(hop)
            note_hops(name, [hop])
    return Proof.of(hops)


def _seen_by_torch(bundle: Bundle, model: PreTrainedModel) -> Seen | None:
    vision = vision_of(bundle)
    return None if vision is None else seen_images.by_torch(model, seen_images.load(bundle.folder, vision))


def _seen_by_graph(bundle: Bundle, threads: int) -> Seen | None:
    vision = vision_of(bundle)
    return (
        None
        if vision is None
        else seen_images.by_graph(bundle, seen_images.load(bundle.folder, vision), threads)
    )


def _by_graph(
    bundle: Bundle, torch: TorchSide, threads: int, seen: Seen | None
) -> tuple[dict[str, list[Hop]], dict[str, list[Array]]]:
    """The graph's hops under each name, and its log-probabilities under each."""
    base, everywhere, there = torch.base, torch.everywhere, torch.adapters
    graph = PlainGraph(bundle.graph_path(bundle.reference), bundle.decoder, threads)
    here = {BASE: _run(graph, base, seen)}
    hops = {
        BASE: [
            compare("torch → ONNX base", base.logprobs, here[BASE], max_abs_logprob=limits.MAX_ABS_LOGPROB),
            liveness(
                "torch → ONNX, random factors in every socket",
                (base.logprobs, everywhere.logprobs),
                (here[BASE], _run(graph, everywhere, seen)),
                limits.LIVENESS,
            ),
        ]
    }
    note_hops(BASE, hops[BASE])
    for name, expected in there.items():
        here[name] = _run(graph, expected, seen)
        hops[name] = _adapter_hops(name, base, expected, here)
        note_hops(name, hops[name])
    return hops, here


def _by_engine(
    bundle: Bundle,
    form: Form,
    here: Mapping[str, Sequence[Array]],
    asked: Mapping[str, Sequence[Probe]],
    threads: int,
    pictures: Sequence[Picture] = (),
) -> tuple[dict[str, Hop], list[Continuation]]:
    """The engine's hop under each name, and what it answers the base's prompts.

    here: the graph's log-probabilities at the probes of `asked`.
    """
    with closing(
        Engine.open(bundle, profile=form.profile, threads=threads, kernels=form.choice, replay_golden=False)
    ) as engine:
        comparisons = {name: Comparison() for name in asked}
        for name, at, rows in _engine_logprobs(engine, asked, pictures):
            comparisons[name].add(here[name][at], rows)
        limit = limits.MAX_ABS_LOGPROB * limits.SLACK
        hops = {name: one.hop("ONNX → engine", max_abs_logprob=limit) for name, one in comparisons.items()}
        return hops, continuations(bundle, engine, asked[BASE], list(asked))


def _run(graph: PlainGraph, what: Expected, seen: Seen | None) -> list[Array]:
    """The graph's side of it."""
    ends = (
        what.ends
        if seen is None
        else replace(what.ends, rows={**what.ends.rows, **seen.by_token}, grids=seen.grids)
    )
    return [spooled(graph.logprobs(probe.ids, probe.wanted, what.factors, ends)) for probe in what.probes]


def _adapter_hops(name: str, base: Expected, there: Expected, here: Mapping[str, list[Array]]) -> list[Hop]:
    chosen = [] if there.uncut is None else [_cut(there.uncut, there)]
    same: Sequence[int] = range(len(base.probes))
    if there.ends.before:  # the probes that fit behind virtual tokens
        same = [base.probes.index(probe) for probe in there.probes]
    return [
        *chosen,
        compare(
            "torch + peft → ONNX + adapter",
            there.logprobs,
            here[name],
            max_abs_logprob=limits.MAX_ABS_LOGPROB,
        ),
        liveness(
            "torch + peft → ONNX, (adapter − base)",
            ([base.logprobs[at] for at in same], _of_base(there.logprobs, base)),
            ([here[BASE][at] for at in same], _of_base(here[name], base)),
            limits.LIVENESS,
        ),
    ]


def _cut(uncut: list[Array], there: Expected) -> Hop:
    """What cutting the adapter to its rank has changed: the user chose it, so there is no limit."""
    return compare(there.cut, uncut, there.logprobs).model_copy(update={"limit": "none: --rank"})


def _of_base(found: Sequence[Array], base: Expected) -> list[Array]:
    """The log-probabilities of the base's own tokens."""
    return [rows[:, : base.logprobs[0].shape[1]] for rows in found]


def _peft_reference(
    model: PreTrainedModel, folder: Path, probes: Sequence[Probe], bundle: Bundle, name: str
) -> Expected:
    """Computes a PEFT folder's outputs with peft; leaves `model` as it was."""
    if virtual := bundle.adapter(name).virtual_tokens:
        return _prompt_reference(model, folder, _fitting(probes, bundle.decoder.context, virtual), bundle)
    folded = bundle.adapter(name).folded
    if folded is not None and folded.error is None:
        return _folded_reference(model, folder, probes, bundle, name)
    expected = _lora_reference(model, folder, probes, bundle, name)
    if folded is None:
        return expected
    before = _folded_reference(model, folder, expected.probes, bundle, name)
    cut = f"{folded.method} → rank {folded.rank}"
    return replace(expected, uncut=before.logprobs, cut=cut)


def _prompt_reference(
    model: PreTrainedModel, folder: Path, probes: Sequence[Probe], bundle: Bundle
) -> Expected:
    """The same of an adapter that stands before every text, with keys and values of peft's own prompt."""
    wrapped = adapted(model, folder)
    return Expected(logprobs(wrapped, probes), probes, ends=PlainEnds.of_prompt(wrapped, bundle.decoder))


def _fitting(probes: Sequence[Probe], context: int, before: int) -> list[Probe]:
    """The probes that fit behind an adapter's virtual tokens, with room for an answer. Raises: AdapterError where none does."""
    fitting = [probe for probe in probes if before + len(probe.ids) + ROOM <= context]
    if not fitting:
        raise AdapterError(f"{before} virtual tokens leave no room for a prompt in a context of {context}")
    return fitting


def _folded_reference(
    model: PreTrainedModel, folder: Path, probes: Sequence[Probe], bundle: Bundle, name: str
) -> Expected:
    """The same of an adapter that was folded into LoRA: peft computes it as it was, and its pairs are the engine's."""
    signature, record = bundle.decoder, bundle.adapter(name)
    assert record.folded is not None
    own = own_files(folder, record.folded)
    pairs = load_adapter(folder, signature)
    ends = PlainEnds.of_engine(pairs)
    with with_rows(model, record.vocab_size), biases_kept(model), base_kept(model, own):
        wrapped = adapted(model, own)
        try:
            asked = ends.probes(probes) if signature.ends is not None else probes
            return Expected(logprobs(wrapped, asked), asked, pairs.factors, ends)
        finally:
            wrapped.unload()


def _lora_reference(
    model: PreTrainedModel, folder: Path, probes: Sequence[Probe], bundle: Bundle, name: str
) -> Expected:
    """The same of LoRA: its factors and ends are peft's own."""
    signature = bundle.decoder
    with with_rows(model, bundle.adapter(name).vocab_size), biases_kept(model) as before:
        wrapped = PeftModel.from_pretrained(model, str(folder))
        try:
            factors = peft_factors(lora_layers(wrapped), str(wrapped.active_adapter))
            ends = PlainEnds.of_peft(wrapped, signature.vocab_size)
            if signature.ends is not None and signature.ends.has_biases:
                plain, factors = factors, with_peft_biases(factors, wrapped, before, signature.sockets)
                ends = replace(ends, biased=factors is not plain)
            own = ends.probes(probes)
            return Expected(logprobs(wrapped, own), own, factors, ends)
        finally:
            wrapped.unload()


def _engine_logprobs(
    engine: Engine, probes: Mapping[str, Sequence[Probe]], pictures: Sequence[Picture] = ()
) -> Iterator[tuple[str, int, Array]]:
    """Computes a few probes at a time under all names, mixed in the engine's batches; yields name, index and
    log-probabilities of each.

    probes: of each name.
    """
    for start in range(0, max(map(len, probes.values())), AT_ONCE):
        jobs = [(name, at) for name in probes for at in range(start, min(start + AT_ONCE, len(probes[name])))]
        asked = [probes[name][at] for name, at in jobs]
        wanted = [probe.wanted for probe in asked]
        logits = engine.logits([probe.ids for probe in asked], [name for name, _ in jobs], pictures, wanted)
        for (name, at), rows in zip(jobs, logits, strict=True):
            yield name, at, log_softmax(rows)
