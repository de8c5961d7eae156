"""The body of any transformers model, traced into one ONNX graph under the encoder's signature, without its weights.

The body is `AutoModel` up to its last hidden states; a pooler and everything after it belong to the head, which
`ptune.export.encoder.head` traces for each adapter.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any

import onnx_ir
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModel, PretrainedConfig, PreTrainedModel

from ptune.export.decoder.sockets import describe, install
from ptune.export.decoder.trace import DYNAMIC, Traced, onnx_of, skeleton, tied_names
from ptune.export.encoder import attention as attention
from ptune.export.encoder.sockets import EncoderInputs, EncoderSocket, low_rank_shape
from ptune.formats.signature import EncoderSignature


class Body(nn.Module):
    """One pass of the engine: `model` on padded rows of tokens, with adapters as inputs."""

    def __init__(self, model: PreTrainedModel, sockets: list[EncoderSocket]) -> None:
        super().__init__()
        self.model = model
        self.sockets = sockets
        self.rows = attention.Rows()

    def forward(
        self,
        input_ids: Tensor,
        lengths: Tensor,
        token_type_ids: Tensor | None,
        lora_mask: Tensor,
        factors: list[Tensor],
    ) -> Tensor:
        """Returns hidden [batch, seq, width]."""
        pairs = {s.name: (factors[2 * i], factors[2 * i + 1]) for i, s in enumerate(self.sockets)}
        step = EncoderInputs(lora_mask[:, None], pairs, low_rank_shape(input_ids, lora_mask))
        self.rows.lengths = lengths
        for module in self.model.modules():
            if isinstance(module, EncoderSocket):
                module.inputs = step
            else:
                setattr(module, attention.ROWS, self.rows)
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        # Our attention reads the lengths; a model with its own attention gets the usual mask.
        mask = (torch.arange(input_ids.shape[1])[None] < lengths[:, None]).long()
        return self.model(input_ids=input_ids, attention_mask=mask, **types).last_hidden_state


def trace_encoder(config: PretrainedConfig, *, prefix: str, trust_remote_code: bool = False) -> Traced:
    """Traces the body of the model that `config` describes.

    prefix: of the names of the body's modules in the whole model, such as "bert.".
    Attention becomes one operator if transformers lets us replace it, else it stays as in the model.
    Raises: BackboneError with the reason if the architecture cannot be exported.
    """
    body, routed = _trace(config, prefix, attention.NAME, trust_remote_code)
    return body if routed else _trace(config, prefix, "eager", trust_remote_code)[0]


def _trace(
    config: PretrainedConfig, prefix: str, implementation: str, trust_remote_code: bool
) -> tuple[Traced, bool]:
    """Traces the body; returns whether it used our attention, too."""
    config = copy.deepcopy(config)  # building a model changes the config, which may be shared
    config.use_cache = False
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    model = skeleton(config, mode, trust_remote_code, kind=AutoModel, attention=implementation)
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    sockets = install(model, EncoderSocket)
    signature = EncoderSignature(
        modality="text",
        context=context_of(config),
        type_ids=takes_type_ids(model),
        prefix=prefix,
        sockets=describe(sockets),
    )
    with mode:
        arguments, dynamic = example(signature)
    names = tied_names(model)
    transposed = frozenset(f"{s.name}.weight" for s in sockets if not s.is_conv1d)
    body = Body(model, sockets).eval()
    graph = traced(body, arguments, dynamic, signature, config.model_type)
    return Traced(graph, signature, transposed, names), body.rows.used


def traced(
    body: nn.Module,
    arguments: tuple[Any, ...],
    dynamic: tuple[Any, ...],
    signature: EncoderSignature,
    named: str,
) -> onnx_ir.Model:
    """Traces a body into a graph under the encoder's signature. Raises: BackboneError with the reason, in one line."""
    inputs = [*signature.step_inputs(), *signature.factor_names()]
    graph = onnx_of(body, arguments, dynamic, inputs, ["hidden"], named, optimize=False)
    forget_shapes(graph)
    return graph


def forget_shapes(model: onnx_ir.Model) -> None:
    """Removes the traced shapes of the updates: at run time they have one row or all rows.

    onnxruntime would plan memory by them. See `EncoderSocket`.
    """
    for node in model.graph:
        update = node.inputs[2] if node.op_type == "Gemm" and len(node.inputs) > 2 else None
        producer = update.producer() if update is not None else None
        if producer is not None and producer.op_type == "Gemm":
            for value in (update, producer.inputs[0]):
                assert value is not None
                value.shape = None


def context_of(config: PretrainedConfig) -> int:
    """The longest sequence, in tokens. Some models count positions from the padding's index on."""
    longest = int(getattr(config, "max_position_embeddings", 512))
    behind = config.model_type in (
        "roberta",
        "xlm-roberta",
        "camembert",
        "xlm-roberta-xl",
        "mpnet",
        "longformer",
    )
    return longest - 1 - int(config.pad_token_id or 0) if behind else longest


def takes_type_ids(model: PreTrainedModel) -> bool:
    """Whether the model distinguishes the two texts of a pair."""
    takes = "token_type_ids" in inspect.signature(model.forward).parameters
    return takes and getattr(model.config, "type_vocab_size", 0) > 1


def example(signature: EncoderSignature) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Example arguments of `Body.forward`, all sizes different, and their dynamic axes."""
    batch, seq, rank = 3, 6, 8
    ids = torch.ones(batch, seq, dtype=torch.int64)
    types = torch.zeros(batch, seq, dtype=torch.int64) if signature.type_ids else None
    factors = [
        torch.zeros(shape)
        for socket in signature.sockets
        for shape in ((socket.in_features, rank), (rank, socket.out_features))
    ]
    lengths, lora_mask = torch.full((batch,), seq), torch.zeros(batch, rank)
    two = {0: DYNAMIC, 1: DYNAMIC}
    axes = [{axis: DYNAMIC} for _ in signature.sockets for axis in (1, 0)]
    dynamic = (two, {0: DYNAMIC}, two if signature.type_ids else None, two, axes)
    return (ids, lengths, types, lora_mask, factors), dynamic
