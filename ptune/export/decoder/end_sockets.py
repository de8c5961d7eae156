"""Sockets at a decoder's ends, for bundles whose adapters may reach them (`ptune.formats.signature.Ends`).

The head sees only the columns whose logits are wanted, and its weight keeps its layout, as it may be the embedding's too:

    logits = x W + b + ((x A) * lora_mask) B, x OWN      (side by side: the base's tokens, then the adapter's own)

The embedding of a token is the base's plus a shift, or the shift alone, which the engine looks up: E[id] + shift, or shift.
Either way the base's own numbers stay what they are without these sockets, to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from ptune.errors import BackboneError
from ptune.export.decoder.sockets import StepInputs, matmul
from ptune.formats.signature import TURN_GROUP, EndKind, Ends


class HeadSocket(nn.Module):
    """The output head with its parameters, plus an adapter: low-rank factors, columns of its own tokens, or both."""

    def __init__(self, linear: nn.Linear, ends: Ends) -> None:
        super().__init__()
        self.name = ends.head
        self.low_rank, self.own = "head" in ends.kinds, "tokens" in ends.kinds
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.step: StepInputs | None = None  # set for each trace

    def forward(self, x: Tensor) -> Tensor:
        assert self.step is not None
        mask = self.step.lora_mask
        mask = mask if self.step.wanted is None else mask[:, self.step.wanted]
        logits = F.linear(x, self.weight, self.bias)
        flat = x.reshape(*mask.shape[:2], -1)
        if self.low_rank:
            factor_a, factor_b = self.step.factors[self.name]
            low = matmul(flat, factor_a, mask.shape[-1]) * mask
            if (ones := self.step.ones) is not None:
                low = low + (ones if self.step.wanted is None else ones[:, self.step.wanted])
            logits = logits + matmul(low, factor_b, self.out_features).reshape(logits.shape)
        if self.own:
            assert self.step.own is not None
            own = matmul(flat, self.step.own, self.step.own.shape[-1])
            logits = torch.cat([logits, own.reshape(*logits.shape[:-1], -1)], dim=-1)
        return logits


class EmbeddingSocket:
    """A hook on the embedding, which keeps its parameters: adds what the engine looks up in an adapter."""

    def __init__(self, embedding: nn.Module) -> None:
        self.step: StepInputs | None = None  # set for each trace
        embedding.register_forward_hook(self)

    def __call__(self, embedding: nn.Module, inputs: tuple[Tensor, ...], embedded: Tensor) -> Tensor:
        assert self.step is not None
        assert self.step.kept is not None
        assert self.step.shift is not None
        scale, shift = getattr(embedding, "embed_scale", None), self.step.shift
        shift = shift if scale is None else shift * scale
        # Emitted verbatim: shapes after it are then read off the base's embedding, which the graph without sockets has, too.
        total = _verbatim("Add", embedded, shift, like=embedded)
        return _verbatim("Where", self.step.kept, total, shift, like=embedded)


def _verbatim(kind: str, *inputs: Tensor, like: Tensor) -> Tensor:
    return torch.onnx.ops.symbolic(kind, inputs, {}, dtype=like.dtype, shape=like.shape)


def describe_ends(
    model: PreTrainedModel, kinds: Sequence[EndKind], turn_group: int = TURN_GROUP
) -> Ends | None:
    """The ends of a model that has no sockets yet; None where adapters reach neither.

    turn_group: of turns, see `Ends`. Raises: BackboneError where the model does not let adapters do so.
    """
    if not kinds:
        return None
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if not isinstance(head, nn.Linear) or head.in_features != embedding.weight.shape[1]:
        raise BackboneError(
            f"{type(model).__name__} has no plain linear head as wide as its embedding, so adapters can plug into neither:"
            " export without --sockets, or with --merge"
        )
    if "tokens" in kinds and head.bias is not None:  # peft computes the head of trained tokens without it
        raise BackboneError(
            f"the output head of {type(model).__name__} has a bias, which peft leaves out with trained tokens: export"
            " without --sockets tokens, or with --merge"
        )
    names = {id(module): name for name, module in model.named_modules()}
    return Ends(
        kinds=tuple(kinds),
        embedding=names[id(embedding)],
        head=names[id(head)],
        tied=head.weight is embedding.weight,
        width=head.in_features,
        turn_group=turn_group,
    )


def install_ends(model: PreTrainedModel, ends: Ends) -> tuple[HeadSocket | None, EmbeddingSocket | None]:
    """Puts sockets where adapters may reach the head and the embedding."""
    embedding, head = model.get_submodule(ends.embedding), model.get_submodule(ends.head)
    hook = EmbeddingSocket(embedding) if ends.step_inputs else None
    if not {"head", "tokens"} & {*ends.kinds}:
        return None, hook
    assert isinstance(head, nn.Linear)
    socket = HeadSocket(head, ends)
    parent, _, leaf = ends.head.rpartition(".")
    setattr(model.get_submodule(parent), leaf, socket)
    return socket, hook
