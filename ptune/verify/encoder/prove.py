"""Proves an encoder's bundle: torch -> ONNX -> engine -> server, for the bare body and every adapter with its head."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial

from ptune.codecs.labels import Problem
from ptune.engine.adapters.fold.fold import own_files
from ptune.engine.adapters.lora import load_adapter
from ptune.engine.encoder.batch import Item
from ptune.engine.encoder.engine import HEAD, NO_FACTORS, EncoderEngine
from ptune.formats.bundle import BASE, Bundle, Hop
from ptune.formats.hop_log import note_hops
from ptune.parity import liveness
from ptune.verify import limits
from ptune.verify.encoder.compare import States, compare_hidden, compare_said, readable
from ptune.verify.encoder.graph import PlainEncoder, run_head
from ptune.verify.encoder.server import questions, served_hops
from ptune.verify.encoder.torch_side import EncoderReference, Inputs, at_rest, hidden, logits
from ptune.verify.proof import Proof
from ptune.verify.reference import (
    Factors,
    adapted,
    base_kept,
    lora_layers,
    peft_factors,
    plugged,
    random_factors,
)

Load = Callable[[], EncoderReference]


@dataclass(frozen=True)
class Expected:
    """Torch's outputs for an adapter."""

    problem: Problem
    logits: States
    at_rest: States  # outputs of its head on the bare body
    factors: Factors


def prove_encoder(
    bundle: Bundle,
    references: Mapping[str, Load],
    inputs: Sequence[Inputs],
    *,
    threads: int,
    server: bool = True,
    report: Callable[[str], None] = lambda _: None,
) -> Proof:
    """Measures every hop of `bundle` against the one before. server: starts a server process for the last hop.

    references: for each adapter to prove, loads the model that it was trained on, with a head; in a bundle without
        adapters, for `base`. PEFT's files are read from the bundle.
    """
    signature = bundle.encoder
    random = random_factors(signature)
    report("torch, the reference")
    expected: dict[str, Expected] = {}
    bare: States = []
    everywhere: States = []
    for name, load in references.items():
        reference = load()
        if not bare:
            bare = hidden(reference.model, inputs)
            with plugged(reference.model.base_model, random):
                everywhere = hidden(reference.model, inputs)
        if name != BASE:
            expected[name] = _expected(bundle, name, reference, inputs)
        del reference

    report("the ONNX graph")
    graph = PlainEncoder(bundle.graph_path(), signature, threads)
    here = graph.hidden(inputs)
    plugged_here = graph.hidden(inputs, random) if signature.sockets else None
    base_hops = _base_hops((bare, everywhere), here, plugged_here)
    by_graph: dict[str, States] = {}
    hops: dict[str, list[Hop]] = {}
    for name, reference_outputs in expected.items():
        head = partial(run_head, bundle.adapter_path(name) / HEAD, modality=signature.modality)
        by_graph[name] = head(graph.hidden(inputs, reference_outputs.factors))
        hops[name] = _adapter_hops(reference_outputs, by_graph[name], head(here))
        note_hops(name, hops[name])
    del graph

    report("the engine")
    with closing(EncoderEngine.open(bundle, threads=threads, replay_golden=False)) as engine:
        names = [BASE, *expected]
        answers = engine.logits([Item(one, name) for one in inputs for name in names])
        server_questions = questions(bundle, engine, inputs, [*expected]) if server else []
    base_hops.append(compare_hidden("ONNX → engine", here, answers[:: len(names)], limits.SLACK))
    note_hops(BASE, base_hops)
    for index, name in enumerate(expected, start=1):
        pair = by_graph[name], answers[index :: len(names)]
        hops[name].append(compare_said("ONNX → engine", expected[name].problem, *pair, limits.SLACK))
        note_hops(name, hops[name])
    if server_questions:  # after the engine is closed, so that memory holds the graph once
        report("the server")
        for name, hop in served_hops(bundle, server_questions, threads).items():
            hops[name].append(hop)
    return Proof.of({BASE: base_hops, **hops})


def _expected(bundle: Bundle, name: str, reference: EncoderReference, inputs: Sequence[Inputs]) -> Expected:
    """Computes an adapter's outputs with peft; an adapter that is only a head is already in the reference."""
    folder, problem = bundle.adapter_path(name), reference.facts.problem
    if not (folder / NO_FACTORS).is_file():
        return Expected(problem, logits(reference.model, inputs), [], {})
    signature, folded = bundle.encoder, bundle.adapter(name).folded
    if folded is not None:
        return _folded(bundle, name, reference, inputs)
    model = adapted(reference.model, folder)
    adapter = str(model.active_adapter)
    layers = lora_layers(model, signature.prefix, {socket.name for socket in signature.sockets})
    there = logits(model, inputs)
    with at_rest(layers, adapter):
        resting = logits(model, inputs)
    return Expected(problem, there, resting, peft_factors(layers, adapter))


def _folded(bundle: Bundle, name: str, reference: EncoderReference, inputs: Sequence[Inputs]) -> Expected:
    """The same of an adapter that was folded into LoRA: peft computes it as it was, and its pairs are the engine's."""
    folder, signature = bundle.adapter_path(name), bundle.encoder
    pairs = load_adapter(folder, signature).factors
    bare = {
        layer: reference.model.get_submodule(layer) for layer in (f"{signature.prefix}{one}" for one in pairs)
    }
    own = own_files(folder, bundle.adapter(name).folded)
    with base_kept(reference.model, own):
        model = adapted(reference.model, own)
        there = logits(model, inputs)
        plain = model.get_base_model()
        for layer, one in bare.items():
            plain.set_submodule(layer, one)  # the adapter's head stays
        return Expected(reference.facts.problem, there, logits(model, inputs), pairs)


def _base_hops(there: tuple[States, States], here: States, everywhere: States | None) -> list[Hop]:
    """there: the body's outputs, and those with random factors, in torch. everywhere: these of the graph; None where a fully
    trained body has no socket."""
    hops = [compare_hidden("torch → ONNX base", there[0], here)]
    if everywhere is not None:
        sides = there, (here, everywhere)
        hops.append(liveness("torch → ONNX, random factors in every socket", *sides, limits.LIVENESS))
    note_hops(BASE, hops)
    return hops


def _adapter_hops(there: Expected, here: States, at_rest: States) -> list[Hop]:
    name = "torch + peft → ONNX + adapter" if there.factors else "torch → ONNX, with its head"
    hops = [compare_said(name, there.problem, there.logits, here)]
    if there.factors:
        read = partial(readable, there.problem)
        hops.append(
            liveness(
                "torch + peft → ONNX, (adapter − base)",
                ([*map(read, there.at_rest)], [*map(read, there.logits)]),
                ([*map(read, at_rest)], [*map(read, here)]),
                limits.LIVENESS,
            )
        )
    return hops
