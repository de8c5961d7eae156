"""An encoder-decoder of transformers, traced into two ONNX graphs under the signature of `ptune.formats.seq2seq`.

The encoder graph is the whole model up to the cross-attention's keys and values of the source; the rest of the decoder is
unused in that trace, and removed. The decoder graph is the decoder and the head, with these keys and values as inputs.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForSeq2SeqLM, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from ptune.errors import BackboneError
from ptune.export.decoder.sockets import describe, install
from ptune.export.decoder.trace import DYNAMIC, Traced, onnx_of, skeleton, tied_names
from ptune.export.encoder.attention import Rows
from ptune.export.encoder.sockets import EncoderInputs, EncoderSocket, low_rank_shape
from ptune.export.encoder.trace import forget_shapes
from ptune.export.fuse import cleanup as tidy
from ptune.export.seq2seq import attention as attention
from ptune.export.weights import ModelWeights, attach
from ptune.formats.seq2seq import DECODER_INPUTS, ENCODER_INPUTS, Seq2SeqSignature
from ptune.formats.signature import CacheLayer, Socket


@dataclass(frozen=True)
class TracedSeq2Seq:
    """Both graphs, with their weights."""

    signature: Seq2SeqSignature
    encoder: Traced
    decoder: Traced


class _Graph(nn.Module):
    """A model whose linear layers are sockets; some belong to this graph."""

    def __init__(self, model: PreTrainedModel, sockets: list[EncoderSocket]) -> None:
        super().__init__()
        self.model = model
        self.sockets: Sequence[EncoderSocket] = sockets  # those of this graph
        self.rows = Rows()
        self.step = attention.Step()

    def plug(self, input_ids: Tensor, lora_mask: Tensor, factors: list[Tensor]) -> None:
        """Gives every socket its factors; sockets of the other graph, whose outputs are unused, compute nothing."""
        pairs = {s.name: (factors[2 * i], factors[2 * i + 1]) for i, s in enumerate(self.sockets)}
        inputs = EncoderInputs(lora_mask[:, None], pairs, low_rank_shape(input_ids, lora_mask))
        for module in self.model.modules():
            if isinstance(module, EncoderSocket):
                module.inputs = inputs


class Reader(_Graph):
    """Sources -> keys and values for the decoder's cross-attention."""

    def forward(
        self, input_ids: Tensor, lengths: Tensor, lora_mask: Tensor, factors: list[Tensor]
    ) -> list[Tensor]:
        self.plug(input_ids, lora_mask, factors)
        self.step, self.rows.lengths = attention.Step(), lengths
        attention.set_step(self.model, self.step, self.rows)
        mask = (torch.arange(input_ids.shape[1])[None] < lengths[:, None]).long()
        self.model(
            input_ids=input_ids, attention_mask=mask, decoder_input_ids=input_ids[:, :1], use_cache=False
        )
        return self.step.cross


class Writer(_Graph):
    """A step of the decoder."""

    def __init__(self, model: PreTrainedModel, sockets: list[EncoderSocket]) -> None:
        super().__init__(model, sockets)
        attention.prepare(model)

    def forward(
        self,
        input_ids: Tensor,
        past_lengths: Tensor,
        lengths: Tensor,
        lora_mask: Tensor,
        past: list[Tensor],
        cross: list[Tensor],
        factors: list[Tensor],
    ) -> tuple[Tensor, list[Tensor]]:
        self.plug(input_ids, lora_mask, factors)
        inputs = attention.SelfInputs(past, cross, past_lengths, lengths, input_ids.shape[1])
        self.step = attention.Step(inputs)
        attention.set_step(self.model, self.step, self.rows)
        width = self.model.get_encoder().config.hidden_size
        read = cross[0].new_zeros(cross[0].shape[0], cross[0].shape[2], width)  # its keys are unused
        logits = self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=read),
            decoder_input_ids=input_ids,
            use_cache=False,
        ).logits
        return logits, self.step.new


def trace_seq2seq(model: PreTrainedModel, context: int) -> TracedSeq2Seq:
    """Traces the graphs of a model in memory; its weights are read when they are saved.

    context: the longest source and target, in tokens.
    Raises: BackboneError with the reason if the architecture cannot be exported.
    """
    empty, sockets = _skeleton(model)
    crossing = _crossing(empty)
    reads = {*empty.get_encoder().modules()}
    reader_sockets = [s for s in sockets if s in reads or s.name in crossing]
    writer_sockets = [s for s in sockets if s not in reader_sockets]
    signature = Seq2SeqSignature(
        vocab_size=model.get_output_embeddings().weight.shape[0],
        context=context,
        cache=_cache(model.config),
        reader_sockets=describe(reader_sockets),
        writer_sockets=describe(writer_sockets),
    )
    encoder = _traced(model, signature, reads=True)
    decoder = _traced(model, signature, reads=False)
    return TracedSeq2Seq(signature, encoder, decoder)


def _skeleton(model: PreTrainedModel) -> tuple[PreTrainedModel, list[EncoderSocket]]:
    """The model without weights but with buffers, and its sockets."""
    config = copy.deepcopy(model.config)  # building a model changes the config, which may be shared
    config.use_cache = False
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    empty = skeleton(config, mode, False, kind=AutoModelForSeq2SeqLM, attention=attention.NAME)
    for name, buffer in model.named_buffers():  # such as BART's trained bias of the logits
        parent, _, leaf = name.rpartition(".")
        setattr(empty.get_submodule(parent), leaf, buffer.detach().float().cpu().clone())
    if _has_own_head(model):  # whatever its config says
        head: Any = empty.get_output_embeddings()
        with mode:
            head.weight = nn.Parameter(torch.empty(head.weight.shape), requires_grad=False)
    empty.eval().requires_grad_(False)
    return empty, install(empty, EncoderSocket)


def _has_own_head(model: PreTrainedModel) -> bool:
    """Whether the head's weights are no embedding's."""
    head: Any = model.get_output_embeddings()
    return sum(one is head.weight for _, one in model.named_parameters(remove_duplicate=False)) == 1


def _crossing(model: PreTrainedModel) -> set[str]:
    """Names of the sockets that make keys and values of the source, by the families' names of cross-attention.

    Raises: BackboneError if the model has none of these names.
    """
    names = {
        name
        for name, module in model.get_decoder().named_modules()
        if name.rpartition(".")[2] in ("EncDecAttention", "encoder_attn") and hasattr(module, "layer_idx")
    }
    keys = ("k", "v", "k_proj", "v_proj")
    prefix = next(name for name, module in model.named_modules() if module is model.get_decoder())
    candidates = {f"{prefix}.{name}.{key}" for name in names for key in keys}
    crossing = {name for name, _ in model.named_modules() if name in candidates}
    if not crossing:
        raise BackboneError(f"{type(model).__name__} has no cross-attention of a kind that can be exported")
    return crossing


def _cache(config: PretrainedConfig) -> tuple[CacheLayer, ...]:
    """The caches of the decoder layers."""
    layers = getattr(config, "decoder_layers", None) or config.num_decoder_layers
    heads = getattr(config, "decoder_attention_heads", None) or config.num_heads
    dim = getattr(config, "d_kv", None) or config.d_model // heads
    return (CacheLayer(kv_heads=heads, key_dim=dim, value_dim=dim),) * layers


def _traced(model: PreTrainedModel, signature: Seq2SeqSignature, *, reads: bool) -> Traced:
    empty, sockets = _skeleton(model)
    own = signature.reader_sockets if reads else signature.writer_sockets
    own_names = {socket.name for socket in own}
    graph = (Reader if reads else Writer)(empty, [s for s in sockets if s.name in own_names]).eval()
    mode = next(parameter.fake_mode for parameter in empty.parameters() if hasattr(parameter, "fake_mode"))
    with mode:
        arguments, dynamic = _example(signature, own, reads=reads)
    step = list(ENCODER_INPUTS if reads else DECODER_INPUTS)
    caches = [] if reads else [*signature.layers("past"), *signature.layers("cross")]
    factors = signature.encoder_factors() if reads else signature.decoder_factors()
    outputs = signature.layers("cross") if reads else ["logits", *signature.layers("new")]
    named = model.config.model_type
    exported = onnx_of(graph, arguments, dynamic, [*step, *caches, *factors], outputs, named, optimize=False)
    tidy.fold(exported)
    tidy.sweep(exported)
    forget_shapes(exported)
    transposed = frozenset(f"{s.name}.weight" for s in sockets if not s.is_conv1d)
    traced = Traced(exported, signature, transposed, tied_names(empty))
    attach(traced, ModelWeights(model))
    return traced


def _example(
    signature: Seq2SeqSignature, sockets: Sequence[Socket], *, reads: bool
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Example arguments of `Reader.forward` or `Writer.forward`, all sizes different, and their dynamic axes."""
    batch, source, tokens, cells, rank = 3, 6, 4, 9, 8
    ids = torch.ones(batch, source if reads else tokens, dtype=torch.int64)
    lengths, lora_mask = torch.full((batch,), source), torch.zeros(batch, rank)
    factors = [
        torch.zeros(shape)
        for socket in sockets
        for shape in ((socket.in_features, rank), (rank, socket.out_features))
    ]
    axes = [{axis: DYNAMIC} for _ in sockets for axis in (1, 0)]
    two, one = {0: DYNAMIC, 1: DYNAMIC}, {0: DYNAMIC}
    if reads:
        return (ids, lengths, lora_mask, factors), (two, one, two, axes)

    def caches(length: int) -> list[Tensor]:
        return [
            torch.zeros(batch, layer.kv_heads, length, dim)
            for layer in signature.cache
            for dim in (layer.key_dim, layer.value_dim)
        ]

    past, cross = caches(cells), caches(source)
    grown = [{0: DYNAMIC, 2: DYNAMIC}] * len(past)
    arguments = (ids, torch.zeros(batch, dtype=torch.int64), lengths, lora_mask, past, cross, factors)
    return arguments, (two, one, one, two, grown, grown, axes)
