"""Low-rank adapters that begin with what the first rows of the training show: EVA, CorDA and LoRA-GA.

EVA (Paischer et al. 2024, https://arxiv.org/abs/2410.07170): A begins as the first r principal directions of a layer's inputs, and B as
zeros, so the function is the base's. Every layer keeps the rank that was asked for (rho = 1 in the paper), so that what is trained, and
its memory, is known before any data is seen. Directions are found by PEFT's incremental analysis, a pass at a time.
Padding is in no covariance.

CorDA (Yang et al. 2024, https://arxiv.org/abs/2406.05223), in its form that learns a task: with C the covariance of a layer's inputs,
B A begins as the r largest parts of the singular value decomposition of W C, times the inverse of C.

LoRA-GA (Wang et al. 2024, https://arxiv.org/abs/2407.05000): A and B begin as singular vectors of the gradient of W on the rows of the
first step, A as the first r and B as the next, scaled as PEFT scales them.

What the last two begin from is subtracted by a second half that is not trained (`ptune.methods.lora_init`). So the base stays the one
that everybody has, quantised or not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self

from ptune.errors import RecipeError
from ptune.methods.lora_init import set_mirrored, weight_of
from ptune.methods.own_positions import OwnPositions

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from torch import nn

FROM_DATA = ("eva", "corda", "lora_ga")
Runs = Sequence["Callable[[], torch.Tensor]"]
"""Each runs one forward pass and returns its share [] of the mean loss of a step."""

_AT_ONCE = 2**28  # numbers of the covariances or gradients that are held: 1 GiB
_GAMMA = 16  # PEFT's `stable_gamma`


def begin_eva(model: PeftModel, runs: Runs) -> None:
    """Sets the first factors of a PeftModel. Raises: RecipeError where the rows are too few for the rank."""
    import torch

    layers = _adapted_layers(model)
    own = OwnPositions(model)
    with torch.no_grad(), model.disable_adapter(), own, _Watched(layers, own) as watched:
        for run in runs:
            run()
    with torch.no_grad():
        for name, layer in layers.items():
            for factor in layer.lora_A.values():
                factor.weight.copy_(watched.directions(name, len(factor.weight)))


def begin_corda(model: PeftModel, runs: Runs) -> None:
    """Sets the factors of a mirrored PeftModel; the rows are run once for each group of layers whose covariances fit together."""
    import torch

    layers, own = _adapted_layers(model), OwnPositions(model)
    for group in _groups(layers, lambda layer: layer.in_features**2):
        sums = {name: torch.zeros(()) for name in group}

        def note(name: str, inputs: torch.Tensor, sums: dict[str, torch.Tensor] = sums) -> None:
            rows = own.of(inputs).float()
            rows = rows / rows.max().abs()
            sums[name] = sums[name].to(rows.device) + rows.T @ rows

        handles = [
            layers[name].register_forward_pre_hook(lambda _, args, name=name: note(name, args[0]))
            for name in group
        ]
        with torch.no_grad(), model.disable_adapter(), own:
            for run in runs:
                run()
        for handle in handles:
            handle.remove()
        for name in group:
            layer = layers[name]
            for adapter in layer.lora_A:
                rank, scale = layer.r[adapter] // 2, layer.scaling[adapter]
                weight = weight_of(name, layer.get_base_layer())
                set_mirrored(layer, adapter, *_of_covariance(weight, sums[name] / len(runs), rank, scale))


def _of_covariance(
    weight: torch.Tensor, covariance: torch.Tensor, rank: int, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """A0 [rank, in] and B0 [out, rank] of weights [out, in] and the covariance [in, in] of their inputs."""
    import torch

    one, damp = torch.eye(len(covariance), device=covariance.device), 0.01
    while True:
        damped = covariance + one * covariance.diag().mean() * damp
        inverse = torch.linalg.inv(damped)
        if torch.dist(damped @ inverse, one) < 0.05:
            break
        damp *= 2
    left, values, right = torch.linalg.svd(weight @ damped, full_matrices=False)
    root = (values[:rank] / scale).sqrt()
    return root[:, None] * (right[:rank] @ inverse), left[:, :rank] * root


def _groups(layers: dict[str, Any], numbers: Callable[[Any], int]) -> Iterator[list[str]]:
    """Names of layers of which so many numbers each are held at once."""
    group, held = list[str](), 0
    for name, layer in layers.items():
        size = numbers(layer)
        if group and held + size > _AT_ONCE:
            yield group
            group, held = [], 0
        group.append(name)
        held += size
    yield group


def begin_lora_ga(model: PeftModel, runs: Runs) -> None:
    """Sets the factors of a mirrored PeftModel by the gradient of all passes together; they are run once for each group of layers
    whose gradients fit together.
    """
    import torch

    layers = _adapted_layers(model)
    trained = [one for one in model.parameters() if one.requires_grad]
    for one in trained:
        one.requires_grad_(False)
    for group in _groups(layers, _gradient_numbers):
        sums = dict[str, torch.Tensor]()
        handles = [layers[name].register_forward_hook(_summing(name, sums)) for name in group]
        with torch.enable_grad(), model.disable_adapter():
            for run in runs:
                loss = run()
                if loss.requires_grad:  # or the pass reaches no layer of the group
                    loss.backward()
        for handle in handles:
            handle.remove()
        for name in group:
            if name in sums:  # or no pass reaches it
                _set_by(layers[name], sums[name])
    for one in trained:
        one.requires_grad_(True)


def gradient_numbers(model: nn.Module) -> list[int]:
    """Of the weights of each layer with an adapter."""
    return [_gradient_numbers(layer) for layer in _adapted_layers(model).values()]


def gradients_held_bytes(total: int, largest: int) -> int:
    """Of the gradients that `begin_lora_ga` holds beside a pass, at most. total, largest: `gradient_numbers`, added up and of a layer."""
    return 4 * min(total, max(_AT_ONCE, largest))


def _gradient_numbers(layer: Any) -> int:
    return int(layer.in_features * layer.out_features)


def _summing(
    name: str, sums: dict[str, torch.Tensor]
) -> Callable[[Any, tuple[Any, ...], torch.Tensor], torch.Tensor]:
    """A hook that adds the gradient of a layer's weights, [out, in], to the one of that name."""

    def note(_: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        rows = inputs[0].detach().flatten(0, -2)

        def add(gradient: torch.Tensor) -> None:
            left, right = gradient.flatten(0, -2).float().T, rows.float()
            if name in sums:
                sums[name].addmm_(left, right)
            else:
                sums[name] = left @ right

        tracked = output if output.requires_grad else output.detach().requires_grad_()
        tracked.register_hook(add)
        return tracked

    return note


def _set_by(layer: Any, gradient: torch.Tensor) -> None:
    """gradient: of the layer's weights, [out, in]"""
    import torch

    for adapter in layer.lora_A:
        rank = layer.r[adapter] // 2
        left, values, right = torch.svd_lowrank(gradient, q=min(4 * rank, *gradient.shape), niter=4)
        if len(values) < 2 * rank:
            raise RecipeError(
                f"method.init 'lora_ga': rank {rank} needs layers of {2 * rank} inputs and outputs at least, and one has"
                f" {min(gradient.shape)}"
            )
        some, rest = slice(0, rank), slice(rank, 2 * rank)
        stable = len(gradient) ** 0.25 / _GAMMA**0.5
        set_mirrored(layer, adapter, right.T[some], left[:, rest] * values[rest] * stable)


def _adapted_layers(model: nn.Module) -> dict[str, Any]:
    """The linear layers with an adapter, by name."""
    from peft.tuners.lora import LoraLayer
    from torch import nn

    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, LoraLayer) and any(isinstance(one, nn.Linear) for one in layer.lora_A.values())
    }


class _Watched:
    """Within its block, the principal directions of the inputs of layers; layers with one input share them."""

    def __init__(self, layers: dict[str, Any], own: OwnPositions) -> None:
        self._layers, self._own = layers, own
        self._ranks = {name: max(layer.r.values()) for name, layer in layers.items()}
        self._same: dict[str, str] = {}  # a layer -> the one whose input it has, too
        self._last: tuple[str, Any] | None = None
        self._analyses: dict[str, Any] = {}
        self._waiting: dict[str, list[torch.Tensor]] = {}  # rows that are too few for a step of the analysis

    def __enter__(self) -> Self:
        self._handles = [
            layer.register_forward_pre_hook(self._noting(name)) for name, layer in self._layers.items()
        ]
        return self

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
            self._see(name, self._own.of(inputs[0]).detach().float())

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
