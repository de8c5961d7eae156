"""Lets peft's layers run on tensors that have shapes and no values."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode


@contextlib.contextmanager
def peft_on_shapes() -> Iterator[None]:
    """Within the block, peft reads no values of weights: of a quantised layer it gets weights of the right shape."""
    from peft.utils import integrations

    own = {name: getattr(integrations, name) for name in _REPLACED}
    _set(_REPLACED)
    try:
        with _Decisions():
            yield
    finally:
        _set(own)  # also where peft has imported a module within the block


def _set(functions: Mapping[str, Any]) -> None:
    """Gives these functions to all of peft's modules that know them by name."""
    for module in [one for name, one in sys.modules.items() if name.startswith("peft.")]:
        for name, function in functions.items():
            if name in vars(module):
                setattr(module, name, function)


class _Decisions(TorchFunctionMode):
    """Decides what depends on values in peft's layers.

    A draw [1] says whether a layer's update takes part in a pass: it does. A single value says whether there is something wrong
    with the numbers: there is not.
    """

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.Tensor.__bool__ and args[0].dtype == torch.bool and args[0].ndim < 2:
            return args[0].ndim == 1
        return func(*args, **(kwargs or {}))


def _of_module(module: nn.Module) -> torch.Tensor:
    """Weights [out, in] of a layer."""
    weight: Any = module.weight
    if weight.is_floating_point():
        assert isinstance(weight, torch.Tensor)
        return weight
    shape: Any = (module.out_features, module.in_features)
    return torch.empty(shape, device=weight.device)


def _of_weight(weight: Any, state: Any = None) -> torch.Tensor:
    """Weights [out, in] of quantised ones: of bytes in rows, or of packed ones by their state."""
    shape = getattr(state, "shape", None) or weight.shape
    return torch.empty(tuple(shape), device=weight.device)


_REPLACED = {"dequantize_module_weight": _of_module, "dequantize_bnb_weight": _of_weight}
