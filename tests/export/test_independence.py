"""Faults that make an answer depend on its neighbours: the search of the traced graph finds each."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support.tiny_models import model
from torch import Tensor, nn

from ptune.errors import BackboneError
from ptune.export.decoder import trace as tracing
from ptune.export.decoder.trace import DYNAMIC, onnx_of, trace


def centred(x: Tensor) -> Tensor:
    return x - x.mean(1, keepdim=True)


def scaled_by_the_largest(x: Tensor) -> Tensor:
    return x / x.abs().max()


def summed_up(x: Tensor) -> Tensor:
    return x + x.cumsum(1)


def shifted(x: Tensor) -> Tensor:
    return x + torch.cat([x[:, :1] * 0, x[:, :-1]], 1)


def convolved(x: Tensor) -> Tensor:
    kernel = torch.ones(x.shape[-1], 1, 3)
    return nn.functional.conv1d(x.transpose(1, 2), kernel, padding=1, groups=x.shape[-1]).transpose(1, 2)


def weighed_among_tokens(x: Tensor) -> Tensor:
    return x * x.sum(-1, keepdim=True).softmax(1)


def of_the_batch(x: Tensor) -> Tensor:
    return x * (x.std(0, keepdim=True) + 1)


FAULTS: dict[str, Callable[[Tensor], Tensor]] = {
    one.__name__: one
    for one in (
        centred,
        scaled_by_the_largest,
        summed_up,
        shifted,
        convolved,
        weighed_among_tokens,
        of_the_batch,
    )
}


def with_fault(
    fault: Callable[[Tensor], Tensor], skeleton: Callable[..., nn.Module]
) -> Callable[..., nn.Module]:
    """The exporter's empty model, whose last layer norm has the fault before it."""

    def make(*args: object, **kwargs: object) -> nn.Module:
        built = skeleton(*args, **kwargs)
        built.model.norm.register_forward_pre_hook(lambda _, inputs: (fault(inputs[0]),))
        return built

    return make


class Small(nn.Module):
    """Embeds tokens and projects them, with something between."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.embed, self.project, self.between = nn.Embedding(16, 8), nn.Linear(8, 4), between

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.project(self.between(self.embed(input_ids)))


def exported(between: Callable[[Tensor], Tensor]) -> None:
    ids, free = torch.zeros(2, 6, dtype=torch.int64), ({0: DYNAMIC, 1: DYNAMIC},)
    onnx_of(Small(between), (ids,), free, ["ids"], ["out"], "small", optimize=False, along=(0, 1))


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found(name: str) -> None:
    with pytest.raises(BackboneError, match="an answer would depend on whatever else is computed"):
        exported(FAULTS[name])


def test_what_is_computed_for_each_token_alone_passes() -> None:
    exported(lambda x: (x - x.mean(-1, keepdim=True)) / x.abs().amax(-1, keepdim=True))


def test_a_fault_planted_into_a_decoder_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "skeleton", with_fault(centred, tracing.skeleton))
    with pytest.raises(BackboneError, match="an answer would depend on whatever else is computed"):
        trace(model("llama", num_hidden_layers=1).config)


def test_longrope_that_chooses_in_every_step_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """As transformers has it: by the largest position of all sequences of a step."""
    monkeypatch.setattr(tracing, "with_fixed_rope", lambda config: config)
    monkeypatch.setattr(tracing, "drop_choice_by_length", lambda _: None)
    parameters = {
        "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8, "long_factor": [2.0] * 8,
    }  # fmt: skip
    config = model(
        "phi3", num_hidden_layers=1, original_max_position_embeddings=64, rope_parameters=parameters
    ).config
    with pytest.raises(BackboneError, match="ReduceMax runs over the tokens of all sequences"):
        trace(config)
