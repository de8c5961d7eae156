"""Batch normalisation: its running statistics stay as they were pretrained, or go on being learnt."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

_FROZEN = "_ptune_frozen_statistics"


def freeze_statistics(model: nn.Module) -> None:
    """From now on these layers normalise by their running statistics and leave them alone, in training mode too.

    Layers of which no weight is trained are frozen in any case: see `still`.
    """
    for layer in _layers(model):
        setattr(layer, _FROZEN, True)


def still(model: nn.Module) -> None:
    """Puts the layers whose statistics stay back into eval mode; to be called after each `model.train()`."""
    for layer in _layers(model):
        if not _learns(layer):
            layer.eval()


def learnt_statistics(model: nn.Module) -> list[tuple[str, Tensor]]:
    """The running statistics that training changes, by name: they belong to what is saved."""
    return [
        (f"{name}.{buffer}".lstrip("."), tensor)
        for name, layer in model.named_modules()
        if isinstance(layer, _BatchNorm) and _learns(layer)
        for buffer, tensor in layer.named_buffers(recurse=False)
    ]


def _learns(layer: _BatchNorm) -> bool:
    trained = any(parameter.requires_grad for parameter in layer.parameters(recurse=False))
    return trained and layer.track_running_stats and not getattr(layer, _FROZEN, False)


def _layers(model: nn.Module) -> list[_BatchNorm]:
    return [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
