"""Proves an encoder's bundle: torch -> ONNX -> engine -> server, for the bare body and every adapter with its head."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ptune.codecs.labels import Problem
from ptune.engine.encoder.batch import Item
from ptune.engine.encoder.engine import HEAD, NO_FACTORS, EncoderEngine
from ptune.formats.bundle import BASE, Bundle, Hop
from ptune.parity import liveness
from ptune.verify import limits
from ptune.verify.encoder_compare import States, compare_hidden, compare_said, readable
from ptune.verify.encoder_graph import PlainEncoder, random_factors, run_head
from ptune.verify.encoder_server import questions, served_hops
from ptune.verify.encoder_torch import (
    Inputs,
    Reference,
    adapted,
    at_rest,
    hidden,
    in_body,
    logits,
    peft_factors,
)
from ptune.verify.graph import Factors
from ptune.verify.prove import RANDOM_RANK, RANDOM_SCALE, RANDOM_SEED, SLACK, Progress, Proof

Load = Callable[[], Reference]


@dataclass(frozen=True)
class Expected:
    """What torch says of an adapter."""

    problem: Problem
    logits: States
    at_rest: States  # of its head on the bare body
    factors: Factors


def prove_encoder(
    bundle: Bundle,
    references: Mapping[str, Load],
    inputs: Sequence[Inputs],
    *,
    threads: int,
    server: bool = True,
    progress: Progress = lambda *_: None,
) -> Proof:
    """Compares every hop of `bundle` with the one before; the last one, of a `server` process, under every adapter.

    references: of each adapter to prove what loads the model that it was trained on, with a head; of a bundle without
        adapters that of `base`. PEFT's files are read from the bundle itself.
    """
    signature = bundle.encoder
    random = random_factors(signature, RANDOM_RANK, RANDOM_SEED, RANDOM_SCALE)
    progress("torch, the reference", 0.0)
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

    progress("the ONNX graph", 0.3)
    graph = PlainEncoder(bundle.graph_path(), signature, threads)
    here = graph.hidden(inputs)
    base_hops = [compare_hidden("torch → ONNX base", bare, here)]
    if signature.sockets:  # a body that was trained itself may have none
        live = (bare, everywhere), (here, graph.hidden(inputs, random))
        base_hops.append(liveness("torch → ONNX, random factors in every socket", *live, limits.LIVENESS))
    found: dict[str, States] = {}
    hops: dict[str, list[Hop]] = {}
    for name, said_there in expected.items():
        head = partial(run_head, bundle.adapter_path(name) / HEAD, modality=signature.modality)
        found[name] = head(graph.hidden(inputs, said_there.factors))
        hops[name] = _adapter_hops(said_there, found[name], head(here))
    del graph

    progress("the engine", 0.6)
    with closing(EncoderEngine.open(bundle, threads=threads, replay_golden=False)) as engine:
        names = [BASE, *expected]
        answers = engine.logits([Item(one, name) for one in inputs for name in names])
        asked = questions(bundle, engine, inputs, [*expected]) if server else []
    base_hops.append(compare_hidden("ONNX → engine", here, answers[:: len(names)], SLACK))
    for index, name in enumerate(expected, start=1):
        served = answers[index :: len(names)]
        hops[name].append(compare_said("ONNX → engine", expected[name].problem, found[name], served, SLACK))
    if asked:  # the engine is closed by now: memory holds the graph once
        progress("the server", 0.8)
        for name, hop in served_hops(bundle, asked, threads).items():
            hops[name].append(hop)
    return Proof(tuple(base_hops), {name: tuple(own) for name, own in hops.items()})


def _expected(bundle: Bundle, name: str, reference: Reference, inputs: Sequence[Inputs]) -> Expected:
    """Loads an adapter with peft itself and asks it; one that is a head alone is in the reference already."""
    folder, problem = bundle.adapter_path(name), reference.facts.problem
    if not (folder / NO_FACTORS).is_file():
        return Expected(problem, logits(reference.model, inputs), [], {})
    model = adapted(reference.model, folder)
    adapter, signature = str(model.active_adapter), bundle.encoder
    layers = in_body(model, signature.prefix, {socket.name for socket in signature.sockets})
    there = logits(model, inputs)
    with at_rest(layers, adapter):
        resting = logits(model, inputs)
    return Expected(problem, there, resting, peft_factors(layers, adapter))


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


def _add(down: Tensor, up: Tensor, layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    if isinstance(layer, nn.Conv2d):
        low = F.conv2d(inputs[0], down, None, layer.stride, layer.padding, layer.dilation)
        return output + F.conv2d(low, up)
    return output + inputs[0] @ down @ up


@contextmanager
def plugged(body: nn.Module, factors: Factors) -> Iterator[None]:
    """Adds low-rank updates to layers of a plain body by forward hooks: independent of peft and of sockets."""
    with ExitStack() as stack:
        for name, pair in factors.items():
            down, up = (torch.from_numpy(factor) for factor in pair)
            hook = body.get_submodule(name).register_forward_hook(partial(_add, down, up))
            stack.callback(hook.remove)
        yield
