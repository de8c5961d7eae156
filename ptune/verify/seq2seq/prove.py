"""Proves an encoder-decoder's bundle: torch -> ONNX -> engine -> server, for the bare base and every adapter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from ptune.codecs.seq2seq import Seq2SeqCodec, Writing
from ptune.engine.adapters.fold.fold import own_files
from ptune.engine.adapters.lora import load_adapter
from ptune.engine.onnx_graph import Array
from ptune.engine.seq2seq.engine import Seq2SeqEngine
from ptune.engine.seq2seq.golden import Pair
from ptune.engine.seq2seq.request import Seq2SeqRequest
from ptune.engine.seq2seq.session import Seq2SeqSession
from ptune.formats.bundle import BASE, Bundle, Hop
from ptune.formats.hop_log import note_hops
from ptune.formats.seq2seq import Seq2SeqSignature
from ptune.parity import compare, liveness, log_softmax
from ptune.tasks.translation.seq2seq_infer import Seq2SeqModel
from ptune.verify import limits
from ptune.verify.proof import Proof
from ptune.verify.reference import (
    Factors,
    adapted,
    base_kept,
    lora_layers,
    padded,
    peft_factors,
    plugged,
    random_factors,
)
from ptune.verify.seq2seq.server import Question, questions, served_hops


def prove_seq2seq(
    bundle: Bundle,
    model: PreTrainedModel,
    pairs: Sequence[Pair],
    *,
    threads: int,
    server: bool = True,
    report: Callable[[str], None] = lambda _: None,
) -> Proof:
    """Measures every hop of `bundle` against the one before, on the targets of `pairs`. server: starts a server process
    for the last hop, which compares generated tokens.

    model: the base in float32 on the CPU, in eval mode; it is used up. PEFT's files are read from the bundle.
    """
    signature, writing = bundle.seq2seq, Writing.open(bundle.codec_path)
    pairs = [Pair(one.source, one.target[: limits.POSITIONS]) for one in pairs]
    random = random_factors(signature)
    report("torch, the reference")
    bare = _torch(model, pairs, writing)
    with plugged(model, random):
        everywhere = _torch(model, pairs, writing)
    there: dict[str, tuple[list[Array], Factors]] = {}  # outputs of torch and peft, and the factors
    for name in bundle.manifest.adapters:
        there[name] = _peft_reference(model, bundle, name, pairs, writing)

    report("the ONNX graphs")
    graph = PlainSeq2Seq(bundle, writing, threads)
    here = graph.logprobs(pairs)
    limit = limits.MAX_ABS_LOGPROB
    base = [compare("torch → ONNX base", bare, here, max_abs_logprob=limit)]
    live_pair = (bare, everywhere), (here, graph.logprobs(pairs, random))
    base.append(liveness("torch → ONNX, random factors in every socket", *live_pair, limits.LIVENESS))
    note_hops(BASE, base)
    by_graph: dict[str, list[Array]] = {BASE: here}
    hops: dict[str, list[Hop]] = {}
    for name, (expected, factors) in there.items():
        by_graph[name] = graph.logprobs(pairs, factors)
        both = (bare, expected), (here, by_graph[name])
        hops[name] = [
            compare("torch + peft → ONNX + adapter", expected, by_graph[name], max_abs_logprob=limit),
            liveness("torch + peft → ONNX, (adapter − base)", *both, limits.LIVENESS),
        ]
        note_hops(name, hops[name])
    del graph

    report("the engine")
    by_engine, texts = _engine_hops(bundle, pairs, by_graph, threads)
    for name, hop in by_engine.items():
        note_hops(name, [hop])
    by_server: dict[str, Hop] = {}
    if server:  # after the engine is closed, so that memory holds the graphs once
        report("the server")
        by_server = served_hops(bundle, texts, threads)
    for last in (by_engine, by_server):
        for name, hop in last.items():
            (base if name == BASE else hops[name]).append(hop)
    return Proof.of({BASE: base, **hops})


def _engine_hops(
    bundle: Bundle, pairs: Sequence[Pair], by_graph: Mapping[str, list[Array]], threads: int
) -> tuple[dict[str, Hop], list[Question]]:
    """Compares the engine with the graphs under every name; returns questions for the server, too."""
    with closing(Seq2SeqEngine.open(bundle, threads=threads, replay_golden=False)) as engine:
        requests = [
            Seq2SeqRequest(one.source, name, forced_ids=one.target) for one in pairs for name in by_graph
        ]
        written = engine.generate(requests)
        model = Seq2SeqModel(engine, Seq2SeqCodec.open(bundle.codec_path))
        texts = questions(model, pairs, [*by_graph])
    hops: dict[str, Hop] = {}
    for at, name in enumerate(by_graph):
        computed = [log_softmax(one.logits) for one in written[at :: len(by_graph)] if one.logits is not None]
        limit = limits.SLACK * limits.MAX_ABS_LOGPROB
        hops[name] = compare("ONNX → engine", by_graph[name], computed, max_abs_logprob=limit)
    return hops, texts


def _peft_reference(
    model: PreTrainedModel, bundle: Bundle, name: str, pairs: Sequence[Pair], writing: Writing
) -> tuple[list[Array], Factors]:
    """What peft computes with an adapter, as it was before it was folded, and its factors; leaves `model` as it was."""
    folder, folded = bundle.adapter_path(name), bundle.adapter(name).folded
    own, signature = own_files(folder, folded), bundle.seq2seq
    with base_kept(model, own):
        live = adapted(model, own)
        try:
            expected = _torch(live, pairs, writing)
            if folded is not None:
                return expected, load_adapter(folder, signature).factors
            layers = lora_layers(live, "", {socket.name for socket in signature.sockets})
            return expected, peft_factors(layers, str(live.active_adapter))
        finally:
            live.unload()


@torch.no_grad()
def _torch(model: nn.Module, pairs: Sequence[Pair], writing: Writing) -> list[Array]:
    """Log-probabilities [tokens, vocab] that predict each target token, computed pair by pair."""
    model.eval()
    return [
        log_softmax(
            model(
                input_ids=torch.tensor([one.source]),
                decoder_input_ids=torch.tensor([writing.shifted(one.target)]),
                use_cache=False,
            ).logits[0].numpy()
        )
        for one in pairs
    ]  # fmt: skip


class PlainSeq2Seq:
    """Both exported graphs without the engine: one pair at a time, its whole target at once."""

    def __init__(self, bundle: Bundle, writing: Writing, threads: int) -> None:
        self.signature: Seq2SeqSignature = bundle.seq2seq
        self.writing = writing
        self.session = Seq2SeqSession(bundle.graph_path().parent, self.signature, threads)

    def logprobs(self, pairs: Sequence[Pair], factors: Factors | None = None) -> list[Array]:
        """Log-probabilities as `_torch` computes them. factors: as from `peft_factors`."""
        rank = max((a.shape[1] for a, _ in (factors or {}).values()), default=0)
        inputs: dict[str, np.ndarray] = {}
        for socket in self.signature.sockets:
            a, b = padded(socket, (factors or {}).get(socket.name), rank)
            inputs |= {f"{socket.name}.A": a, f"{socket.name}.B": b}
        return [self._one(one, inputs, np.ones((1, rank), np.float32)) for one in pairs]

    def _one(self, pair: Pair, factors: dict[str, np.ndarray], choice: Array) -> Array:
        lengths = np.array([len(pair.source)], np.int64)
        source: dict[str, Array] = {
            "input_ids": np.array([pair.source], np.int64),
            "lengths": lengths,
            "lora_mask": choice,
        }
        cross = dict(zip(self.signature.layers("cross"), self.session.encode(source, factors), strict=True))
        shapes = [
            (one.kv_heads, 1, dim) for one in self.signature.cache for dim in (one.key_dim, one.value_dim)
        ]
        empty = [np.zeros((1, *shape), np.float32) for shape in shapes]
        past = dict(zip(self.signature.layers("past"), empty, strict=True))
        ids = np.array([self.writing.shifted(pair.target)], np.int64)
        step = {
            "input_ids": ids,
            "past_lengths": np.zeros(1, np.int64),
            "lengths": lengths,
            "lora_mask": choice,
        }
        logits, _ = self.session.decode({**step, **past, **cross}, factors)
        return log_softmax(logits[0])
