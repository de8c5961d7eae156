"""Proves a decoder's bundle: torch -> ONNX -> engine -> server, for the bare base and every adapter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from peft import PeftModel
from torch import nn

from ptune.engine.decoder.engine import Engine
from ptune.formats.bundle import BASE, FP32, Bundle, Hop
from ptune.parity import Array, compare, liveness, log_softmax
from ptune.verify import company, limits
from ptune.verify.decoder_server import continuations, served_hops
from ptune.verify.graph import PlainGraph
from ptune.verify.proof import Proof
from ptune.verify.reference import Factors, lora_layers, peft_factors, plugged, random_factors
from ptune.verify.torch_side import Probe, logprobs

AT_ONCE = 4  # probes in the engine at once, each under every name: all their logits are in memory


@dataclass(frozen=True)
class Expected:
    """Torch's log-probabilities of each probe, and an adapter's factors as in peft."""

    logprobs: list[Array]
    factors: Factors | None = None


def prove(
    bundle: Bundle,
    model: nn.Module,
    adapters: Mapping[str, Path],
    probes: Sequence[Probe],
    *,
    threads: int,
    server: bool = True,
    report: Callable[[str], None] = lambda _: None,
) -> Proof:
    """Measures every hop of `bundle`'s fp32 graph against the one before; other profiles: `ptune.verify.profile`.

    model: the plain float32 reference (a quantised base dequantised). adapters: the PEFT folders to prove.
    """
    random = random_factors(bundle.decoder)
    report("torch, the reference")
    base = Expected(logprobs(model, probes))
    with plugged(model, random):
        everywhere = Expected(logprobs(model, probes), random)
    there = {name: _peft_reference(model, folder, probes) for name, folder in adapters.items()}

    report("the ONNX graph")
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

    report("the engine")
    with closing(Engine.open(bundle, profile=FP32, threads=threads, replay_golden=False)) as engine:
        names = [BASE, *there]
        served = _engine_logprobs(engine, probes, names)
        for name in names:
            hop = compare(
                "ONNX → engine",
                here[name],
                served[name],
                max_abs_logprob=limits.MAX_ABS_LOGPROB * limits.SLACK,
            )
            (base_hops if name == BASE else hops[name]).append(hop)
        expected = continuations(bundle, engine, probes, names) if server else []
    report("alone and in company")
    base_hops.append(company.hop(bundle, FP32, [probe.ids for probe in probes], threads=threads))
    if server:  # after the engine is closed, so that memory holds the graph once
        report("the server")
        for name, hop in served_hops(bundle, expected, threads).items():
            (base_hops if name == BASE else hops[name]).append(hop)
    return Proof.of({BASE: base_hops, **hops})


def _run(graph: PlainGraph, probes: Sequence[Probe], factors: Factors | None) -> list[Array]:
    return [graph.logprobs(probe.ids, probe.wanted, factors) for probe in probes]


def _adapter_hops(name: str, base: Expected, there: Expected, here: Mapping[str, list[Array]]) -> list[Hop]:
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


def _peft_reference(model: nn.Module, folder: Path, probes: Sequence[Probe]) -> Expected:
    """Computes a PEFT folder's outputs with peft; leaves `model` as it was."""
    wrapped = PeftModel.from_pretrained(model, str(folder))
    try:
        factors = peft_factors(lora_layers(wrapped), str(wrapped.active_adapter))
        return Expected(logprobs(wrapped, probes), factors)
    finally:
        wrapped.unload()


def _engine_logprobs(engine: Engine, probes: Sequence[Probe], names: Sequence[str]) -> dict[str, list[Array]]:
    """Computes a few probes at a time under all names, mixed in the engine's batches."""
    served: dict[str, list[Array]] = {name: [] for name in names}
    for start in range(0, len(probes), AT_ONCE):
        jobs = [(probe, name) for probe in probes[start : start + AT_ONCE] for name in names]
        logits = engine.logits([probe.ids for probe, _ in jobs], [name for _, name in jobs])
        for (probe, name), rows in zip(jobs, logits, strict=True):
            served[name].append(log_softmax(rows[list(probe.wanted)]))
    return served
