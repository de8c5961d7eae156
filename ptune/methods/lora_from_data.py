"""Low-rank adapters that begin with what layers are given on the first rows of the training: EVA.

EVA (Paischer et al. 2024, https://arxiv.org/abs/2410.07170): A begins as the first r principal directions of a layer's inputs, and B as
zeros, so the function is the base's. Every layer keeps the rank that was asked for (rho = 1 in the paper), so that what is trained, and
its memory, is known before any data is seen. Directions are found by PEFT's incremental analysis, a pass at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from ptune.errors import RecipeError

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

FROM_DATA = ("eva",)
Runs = Iterable["Callable[[], torch.Tensor]"]
"""Each runs one forward pass and returns its loss []."""


def begin_eva(model: PeftModel, runs: Runs) -> None:
    """Sets the first factors of a PeftModel. Raises: RecipeError where the rows are too few for the rank."""
    import torch

    layers = {name: layer for name, layer in model.named_modules() if _adapted(layer)}
    watched = _Watched(layers)
    with torch.no_grad(), model.disable_adapter(), watched:
        for run in runs:
            run()
    with torch.no_grad():
        for name, layer in layers.items():
            for factor in layer.lora_A.values():
                factor.weight.copy_(watched.directions(name, len(factor.weight)))


def _adapted(layer: Any) -> bool:
    from peft.tuners.lora import LoraLayer
    from torch import nn

    return isinstance(layer, LoraLayer) and any(isinstance(one, nn.Linear) for one in layer.lora_A.values())


class _Watched:
    """Within its block, the principal directions of the inputs of layers; layers with one input share them."""

    def __init__(self, layers: dict[str, Any]) -> None:
        self._layers = layers
        self._ranks = {name: max(layer.r.values()) for name, layer in layers.items()}
        self._same: dict[str, str] = {}  # a layer -> the one whose input it has, too
        self._last: tuple[str, Any] | None = None
        self._analyses: dict[str, Any] = {}
        self._waiting: dict[str, list[torch.Tensor]] = {}  # rows that are too few for a step of the analysis

    def __enter__(self) -> None:
        self._handles = [
            layer.register_forward_pre_hook(self._noting(name)) for name, layer in self._layers.items()
        ]

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._last = None

    def _noting(self, name: str) -> Callable[[Any, tuple[Any, ...]], None]:
        def note(_: Any, inputs: tuple[Any, ...]) -> None:
            if (
                self._last is not None
                and self._last[1] is inputs[0]
                and self._ranks[name] <= self._ranks[self._last[0]]
            ):
                self._same[name] = self._last[0]
                return
            self._last = name, inputs[0]
            self._see(name, inputs[0].detach().flatten(0, -2).float())

        return note

    def _see(self, name: str, rows: torch.Tensor) -> None:
        """rows [tokens, in]"""
        import torch
        from peft.utils.incremental_pca import IncrementalPCA

        waiting = self._waiting.setdefault(name, [])
        waiting.append(rows)
        if sum(map(len, waiting)) < self._ranks[name]:
            return
        if name not in self._analyses:
            self._analyses[name] = IncrementalPCA(self._ranks[name], copy=True, lowrank=True, lowrank_seed=42)
        self._analyses[name].partial_fit(torch.cat(waiting))
        waiting.clear()

    def directions(self, name: str, rank: int) -> torch.Tensor:
        """[rank, in], each of length 1. Raises: RecipeError."""
        analysis = self._analyses.get(self._same.get(name, name))
        if analysis is None:
            raise RecipeError(
                f"method.init 'eva': the first rows hold fewer than {rank} inputs of {name}, which its rank needs: lower"
                " method.r, or take more rows a step"
            )
        found: torch.Tensor = analysis.components_[:rank]
        return found
