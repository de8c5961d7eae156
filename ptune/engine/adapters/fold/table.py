"""The table of PEFT types that are served as LoRA pairs, or as gains: one row a type."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ptune.engine.adapters.fold import (
    adalora,
    deft,
    delora,
    dense,
    gains,
    gralora,
    hra,
    initialised,
    loha,
    lokr,
    miss,
    vblora,
    vera,
)
from ptune.engine.adapters.fold.layer import Layer, Update
from ptune.engine.adapters.peft_config import LoraConfig


@dataclass(frozen=True)
class Method:
    """How a type is read.

    tensors: of a layer, by the ends of their names. fold: makes its update of them. config: the settings that this takes.
    shared: tensors of all layers, by the ends of their names. needs_base: whether the update depends on the base's weights.
    socket: what it becomes: a pair, or gains beside one. settled: settings that LoRA alone would be refused for.
    """

    tensors: tuple[str, ...]
    fold: Callable[[Layer[Any]], Update]
    config: type[LoraConfig] = LoraConfig
    shared: tuple[str, ...] = ()
    needs_base: bool = False
    socket: Literal["pair", "gains", "turns"] = "pair"
    settled: tuple[str, ...] = ()


_LOKR = tuple(f"lokr_{name}" for name in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b"))
_VBLORA = tuple(
    f"vblora_logits_{side}{end}" for side in "AB" for end in ("", "_topk_indices", "_topk_weights")
)
_GRALORA = ("gralora_A", "gralora_B", "gralora_A_general.weight", "gralora_B_general.weight")
_LORA = ("lora_A.weight", "lora_B.weight")

METHODS: Mapping[str, Method] = {
    "ADALORA": Method(("lora_A", "lora_B", "lora_E"), adalora.fold, adalora.AdaLoraConfig),
    "BOFT": Method(("boft_R", "boft_s"), dense.fold_boft, needs_base=True),
    "C3A": Method(("c3a_kernel",), dense.fold_c3a),
    "DEFT": Method(("deft_P", "deft_R"), deft.fold, deft.DeftConfig, needs_base=True),
    "DELORA": Method(("delora_A", "delora_B", "delora_lambda", "delora_w_norm"), delora.fold),
    "GRALORA": Method(_GRALORA, gralora.fold, gralora.GraloraConfig),
    "HIRA": Method(("hira_A", "hira_B"), dense.fold_hira, needs_base=True),
    "HRA": Method(("hra_u",), hra.fold, hra.HraConfig, needs_base=True),
    "IA3": Method(("ia3_l",), gains.fold_ia3, gains.Ia3Config, socket="gains"),
    "LOHA": Method(("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"), loha.fold, loha.LycorisConfig),
    "LOKR": Method(_LOKR, lokr.fold, loha.LycorisConfig),
    "MISS": Method(("miss_block",), miss.fold, miss.MissConfig),
    "OFT": Method(("oft_R.weight",), dense.fold_oft, dense.OftConfig, needs_base=True),
    "PVERA": Method(
        ("pvera_lambda_b", "pvera_lambda_d"), vera.fold_pvera, vera.PveraConfig, ("pvera_A", "pvera_B")
    ),
    "RANDLORA": Method(
        ("randlora_lambda", "randlora_gamma", "randlora_A", "randlora_B"),
        dense.fold_randlora,
        dense.RandloraConfig,
        ("randlora_A", "randlora_B"),
    ),
    "ROAD": Method(("road_theta", "road_alpha"), gains.fold_road, gains.RoadConfig, socket="turns"),
    "SHIRA": Method(("shira_weight", "shira_indices"), dense.fold_shira),
    "VBLORA": Method(_VBLORA, vblora.fold, vblora.VbloraConfig, ("vblora_vector_bank",)),
    "VERA": Method(("vera_lambda_b", "vera_lambda_d"), vera.fold, shared=("vera_A", "vera_B")),
}
"""By peft_type."""

INITIALISED: Mapping[str, Method] = {
    "olora": Method(_LORA, initialised.fold_olora, needs_base=True),
    "pissa": Method(_LORA, initialised.fold_pissa, needs_base=True),
}
"""Of peft_type LORA, by init_lora_weights."""

DORA = Method(
    (*_LORA, "lora_magnitude_vector"),
    gains.fold_dora,
    gains.DoraConfig,
    needs_base=True,
    socket="gains",
    settled=("use_dora",),
)
"""Of peft_type LORA with use_dora."""


def is_initialised(fields: Mapping[str, Any]) -> bool:
    """Whether an adapter_config.json is of LoRA that peft begins, and loads, by taking a part out of the base's weights."""
    return method_of(fields)[1] in INITIALISED.values()


def method_of(fields: Mapping[str, Any]) -> tuple[str, Method | None]:
    """The name of what adapter_config.json describes, and how to read it; None for LoRA as it is, and for what is not known."""
    kind, init = fields.get("peft_type"), fields.get("init_lora_weights")
    if kind == "LORA":
        method = INITIALISED.get(init) if isinstance(init, str) else None
        if method is None and fields.get("use_dora"):
            return "LORA (DoRA)", DORA
        return ("LORA" if method is None else f"LORA ({init})"), method
    return str(kind), METHODS.get(kind) if isinstance(kind, str) else None
