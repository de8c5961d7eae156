"""Proves a bundle: torch -> ONNX -> engine -> server, for the bare base and every adapter, in numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import nn

from ptune.engine.decoder.engine import Engine
from ptune.formats.bundle import BASE, FP32, Bundle, Hop
from ptune.parity import Array, compare, liveness, log_softmax
from ptune.verify import limits
from ptune.verify.graph import Factors, PlainGraph, random_factors
from ptune.verify.server import continuations, served_hops
from ptune.verify.torch_side import Probe, logprobs, plugged

Progress = Callable[[str, float], None]
RANDOM_RANK, RANDOM_SEED, RANDOM_SCALE = 4, 0, 0.05
AT_ONCE = 4  # probes in the engine at once, each under every name: their logits are held whole
SLACK = 0.5  # of MAX_ABS_LOGPROB: what the hops after the graph may add


@dataclass(frozen=True)
class Reference:
    """What torch says: log-probabilities of each probe, and an adapter's factors as peft holds them."""

    logprobs: list[Array]
    factors: Factors | None = None


@dataclass(frozen=True)
class Proof:
    """The hops of a bundle's base, and of each adapter.

    refused: profiles that were asked for and are not in the bundle, each with the reason.
    """

    base: tuple[Hop, ...]
    adapters: dict[str, tuple[Hop, ...]]
    refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def hops(self) -> list[Hop]:
        return [*self.base, *(hop for hops in self.adapters.values() for hop in hops)]

    def after(self, before: Mapping[str, Sequence[Hop]]) -> Proof:
        """This proof, led by hops that were measured earlier."""
        adapters = {name: (*before.get(name, ()), *hops) for name, hops in self.adapters.items()}
        return replace(self, base=(*before.get(BASE, ()), *self.base), adapters=adapters)

    def then(self, more: Proof) -> Proof:
        """This proof, followed by another of the same bundle."""
        names = [*self.adapters, *(name for name in more.adapters if name not in self.adapters)]
        both = {name: (*self.adapters.get(name, ()), *more.adapters.get(name, ())) for name in names}
        return Proof((*self.base, *more.base), both, {**self.refused, **more.refused})

    @property
    def passed(self) -> bool:
        return all(hop.passed for hop in self.hops)


def prove(
    bundle: Bundle,
    model: nn.Module,
    adapters: Mapping[str, Path],
    probes: Sequence[Probe],
    *,
    threads: int,
    server: bool = True,
    progress: Progress = lambda *_: None,
) -> Proof:
    """Compares every hop of `bundle`'s fp32 graph with the one before; other profiles: `ptune.verify.profile`.

    `model` is the plain float32 reference (a quantised base dequantised), `adapters` the PEFT folders to prove.
    """
    random = random_factors(bundle.decoder, RANDOM_RANK, RANDOM_SEED, RANDOM_SCALE)
    progress("torch, the reference", 0.0)
    base = Reference(logprobs(model, probes))
    with plugged(model, random):
        everywhere = Reference(logprobs(model, probes), random)
    there = {name: _peft_reference(model, folder, probes) for name, folder in adapters.items()}

    progress("the ONNX graph", 0.3)
    graph = PlainGraph(bundle.graph_path(FP32), bundle.decoder, threads)
    here = {BASE: _run(graph, probes, None)} | {
        name: _run(graph, probes, there[name].factors) for name in there
    }
    base_hops = [
        compare("torch → ONNX base", base.logprobs, here[BASE], max_abs_logprob=limits.MAX_ABS_LOGPROB),
        liveness(
            "torch → ONNX, random factors in every socket",
            (base.logprobs, everywhere.logprobs),
            (here[BASE], _run(graph, probes, random)),
            limits.LIVENESS,
        ),
    ]
    hops = {name: _adapter_hops(name, base, there[name], here) for name in there}
    del graph

    progress("the engine", 0.6)
    with closing(Engine.open(bundle, profile=FP32, threads=threads, replay_golden=False)) as engine:
        names = [BASE, *there]
        served = _engine_logprobs(engine, probes, names)
        for name in names:
            hop = compare(
                "ONNX → engine", here[name], served[name], max_abs_logprob=limits.MAX_ABS_LOGPROB * SLACK
            )
            (base_hops if name == BASE else hops[name]).append(hop)
        expected = continuations(bundle, engine, probes, names) if server else []
    if server:  # the engine is closed by now: memory holds the graph once
        progress("the server", 0.8)
        for name, hop in served_hops(bundle, expected, threads).items():
            (base_hops if name == BASE else hops[name]).append(hop)
    return Proof(tuple(base_hops), {name: tuple(found) for name, found in hops.items()})


def _run(graph: PlainGraph, probes: Sequence[Probe], factors: Factors | None) -> list[Array]:
    return [graph.logprobs(probe.ids, probe.wanted, factors) for probe in probes]


def _adapter_hops(name: str, base: Reference, there: Reference, here: Mapping[str, list[Array]]) -> list[Hop]:
    return [
        compare(
            "torch + peft → ONNX + adapter",
            there.logprobs,
            here[name],
            max_abs_logprob=limits.MAX_ABS_LOGPROB,
        ),
        liveness(
            "torch + peft → ONNX, (adapter − base)",
            (base.logprobs, there.logprobs),
            (here[BASE], here[name]),
            limits.LIVENESS,
        ),
    ]


def _peft_reference(model: nn.Module, folder: Path, probes: Sequence[Probe]) -> Reference:
    """Loads a PEFT folder with peft itself, asks it, and leaves `model` as it was."""
    wrapped = PeftModel.from_pretrained(model, str(folder))
    try:
        return Reference(logprobs(wrapped, probes), peft_factors(wrapped))
    finally:
        wrapped.unload()


def peft_factors(model: PeftModel) -> Factors:
    """The active adapter's factors as peft holds them: socket -> A [in, r], B [r, out] times its scaling.

    Layers of smaller rank are padded with zeros to the largest.
    """
    found, active = {}, model.active_adapter
    for name, layer in model.get_base_model().named_modules():
        if isinstance(layer, LoraLayer) and active in layer.lora_A:
            a, b = layer.lora_A[active].weight.detach().T, layer.lora_B[active].weight.detach().T
            found[name] = a.float(), b.float() * layer.scaling[active]
    rank = max(a.shape[1] for a, _ in found.values())
    pad = torch.nn.functional.pad
    return {
        name: (
            pad(a, (0, rank - a.shape[1])).contiguous().cpu().numpy(),
            pad(b, (0, 0, 0, rank - b.shape[0])).contiguous().cpu().numpy(),
        )
        for name, (a, b) in found.items()
    }


def _engine_logprobs(engine: Engine, probes: Sequence[Probe], names: Sequence[str]) -> dict[str, list[Array]]:
    """A few probes at a time under all names, mixed in the engine's batches."""
    found: dict[str, list[Array]] = {name: [] for name in names}
    for start in range(0, len(probes), AT_ONCE):
        jobs = [(probe, name) for probe in probes[start : start + AT_ONCE] for name in names]
        logits = engine.logits([probe.ids for probe, _ in jobs], [name for _, name in jobs])
        for (probe, name), rows in zip(jobs, logits, strict=True):
            found[name].append(log_softmax(rows[list(probe.wanted)]))
    return found
