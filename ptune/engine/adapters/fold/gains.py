"""Adapters that multiply what a layer reads or gives: they become gains (`ptune.engine.adapters.gains`), DoRA beside its pair.

DoRA (Liu et al. 2024, https://arxiv.org/abs/2402.09353), (IA)^3 (Liu et al. 2022, https://arxiv.org/abs/2205.05638) and RoAd (Liao
and Monz 2024, https://arxiv.org/abs/2409.00119).
"""

from __future__ import annotations

import re
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator

from ptune.engine.adapters.fold.layer import Factor, Layer, LayerError, Update
from ptune.engine.adapters.peft_config import PLAIN_INITS, LoraConfig

PEFT_GROUP = 64  # peft's group_size, where a config has none


class DoraConfig(LoraConfig):
    """init_lora_weights: some take a part out of the base's weights."""

    init_lora_weights: Any = True


def fold_dora(layer: Layer[DoraConfig]) -> Update:
    """y = g (W + s B A) x + b, with g = m / |W + s B A| for each output. The graph's gain is of the whole W x + b."""
    if (init := layer.config.init_lora_weights) not in PLAIN_INITS:
        raise LayerError(f"init_lora_weights is {init!r}: it changed the base's weights when training began")
    a = layer.tensor("lora_A.weight", layer.rank, layer.inner)
    b = layer.tensor("lora_B.weight", layer.outer, layer.rank) * np.float32(layer.scale)
    weight = layer.weight() + b @ a
    gain = layer.tensor("lora_magnitude_vector", layer.outer) / np.linalg.norm(weight, axis=1)
    gains = {"gain": gain - 1}
    if (bias := layer.bias()) is not None:
        gains["shift"] = bias - gain * bias
    return Update(a, b * gain[:, None], gains)


class Ia3Config(LoraConfig):
    """Names or name endings of the layers whose input is scaled instead of their output."""

    feedforward_modules: tuple[str, ...] | str = ()

    @field_validator("feedforward_modules")
    @classmethod
    def _is_a_pattern(cls, modules: tuple[str, ...] | str) -> tuple[str, ...] | str:
        try:
            re.compile(modules if isinstance(modules, str) else "")
        except re.error as error:
            raise ValueError(f"{modules!r} is not a valid pattern: {error}") from None
        return modules

    def scales_input(self, module: str) -> bool:
        """As peft decides it."""
        if isinstance(self.feedforward_modules, str):
            return re.fullmatch(self.feedforward_modules, module) is not None
        return module.endswith(self.feedforward_modules)


def fold_ia3(layer: Layer[Ia3Config]) -> Update:
    """y = l (W x + b), or W (l x) + b."""
    if layer.config.scales_input(layer.name):
        return _scaled(layer, inner=layer.tensor("ia3_l", 1, layer.inner)[0] - 1)
    return _scaled(layer, gain=layer.tensor("ia3_l", layer.outer, 1)[:, 0] - 1)


class RoadConfig(LoraConfig):
    """variant: how many numbers are trained for each output."""

    variant: Literal["road_1", "road_2", "road_4"] = "road_1"
    group_size: int = Field(default=PEFT_GROUP, ge=2, multiple_of=2)


def fold_road(layer: Layer[RoadConfig]) -> Update:
    """Turns pairs of outputs by an angle, and scales them: a pair is output i of the first half of a group and of the second."""
    group, variant = layer.config.group_size, layer.config.variant
    if layer.outer % group:
        raise LayerError(f"its {layer.outer} outputs make no groups of {group} (group_size)")
    count = {"road_1": layer.outer // 2, "road_2": layer.outer, "road_4": 2 * layer.outer}[variant]
    theta, alpha = (
        layer.tensor(name, count).reshape(-1, group // 2) for name in ("road_theta", "road_alpha")
    )
    if variant == "road_1":
        theta, alpha = theta.repeat(2, axis=0), alpha.repeat(2, axis=0)
    own, other = alpha * np.cos(theta), alpha * np.sin(theta)  # [half groups, group / 2]
    if variant == "road_4":  # the numbers of a group for `own` come before those for `other`
        own, other = own.reshape(-1, 2, group)[:, 0], other.reshape(-1, 2, group)[:, 1]
    other = other.reshape(-1, 2, group // 2).copy()
    other[:, 0] *= -1  # the first half gets the second one's outputs, negated
    return _scaled(layer, gain=own.reshape(-1) - 1, turn=other.reshape(-1))


def _scaled(layer: Layer[Any], **gains: Factor) -> Update:
    """An update without a pair."""
    a, b = np.zeros((0, layer.inner), np.float32), np.zeros((layer.outer, 0), np.float32)
    return Update(a, b, gains)
