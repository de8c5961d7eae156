"""Batch normalisation: keeps the pretrained running statistics, or trains them further."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

_FROZEN = "_ptune_frozen_statistics"


def freeze_statistics(model: nn.Module) -> None:
    """Marks every layer to normalise by its running statistics without updating them, in training mode too.

    Layers without a trained weight are frozen in any case: see `still`.
    """
    for layer in _layers(model):
        setattr(layer, _FROZEN, True)


def still(model: nn.Module) -> None:
    """Puts layers with frozen statistics back into eval mode. Call it after each `model.train()`."""
    for layer in _layers(model):
        if not _learns(layer):
            layer.eval()


def learnt_statistics(model: nn.Module) -> list[tuple[str, Tensor]]:
    """The running statistics that training changes, by name; they are saved with the weights."""
    return [
        (f"{name}.{buffer}".lstrip("."), tensor)
        for name, layer in model.named_modules()
        if isinstance(layer, _BatchNorm) and _learns(layer)
        for buffer, tensor in layer.named_buffers(recurse=False)
    ]


def learnt_moments(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Of `learnt_statistics` the means and variances, without the counts of batches."""
    return [(name, tensor) for name, tensor in learnt_statistics(model) if tensor.is_floating_point()]


def _learns(layer: _BatchNorm) -> bool:
    trained = any(parameter.requires_grad for parameter in layer.parameters(recurse=False))
    return trained and layer.track_running_stats and not getattr(layer, _FROZEN, False)


def _layers(model: nn.Module) -> list[_BatchNorm]:
    return [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
