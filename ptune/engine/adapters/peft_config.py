"""adapter_config.json as peft writes it: the settings that ptune serves, and those that it refuses by name."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError

from ptune.engine.adapters.source import Source
from ptune.errors import AdapterError
from ptune.formats.name_patterns import matches
from ptune.formats.signature import Ends

PEFT_PREFIX = "base_model.model."  # of the names in PEFT's files

MERGE = "merge it instead: ptune merge, or ptune export RUN --merge"

SOCKETS = f"export the bundle with --sockets head,embedding,tokens, or {MERGE}"

BIASES = f"a chat bundle that was exported with --sockets biases serves them; or {MERGE}"

GAINS = (
    f"a chat bundle that was exported with --sockets gains (RoAd: --sockets turns) serves them; or {MERGE}"
)

# Settings that change more than `x @ A @ B * scale` beside a linear layer. A false, null or empty value is harmless.
REFUSED = {
    "use_dora": f"DoRA scales each output: {GAINS}",
    "modules_to_save": f"it carries whole trained modules beside the LoRA factors; {MERGE}",
    "target_parameters": f"it adapts bare parameters, not linear layers; {MERGE}",
    "trainable_token_indices": (
        f"it brings tokens with embeddings of their own, for which this bundle has no sockets; {SOCKETS}"
    ),
    "lora_bias": f"its B factors have biases: {BIASES}",
    "layer_replication": f"it changes how many layers the base has; {MERGE}",
    "kasa_config": f"KaSA changes the base's weights; {MERGE}",
    "alora_invocation_tokens": "aLoRA acts on a part of a sequence only, and is served in chat bundles alone",
    "use_qalora": "QA-LoRA pools the inputs of its A factors",
    "use_bdlora": "BD-LoRA has block-diagonal factors",
    "arrow_config": "Arrow routes each token among several adapters",
    "monteclora_config": "MonteCLoRA samples its factors",
    "megatron_config": "it belongs to Megatron's parallel layers",
}
# Initialisations that leave the base's weights as they were; after the others, factors of this base are not enough.
PLAIN_INITS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")


class LoraConfig(BaseModel):
    """The fields of peft's LoraConfig that say where factors plug in and how they are scaled."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    r: int = 8
    lora_alpha: FiniteFloat = 8
    use_rslora: bool = False
    rank_pattern: dict[str, int] = {}
    alpha_pattern: dict[str, FiniteFloat] = {}
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    trainable_token_indices: dict[str, list[int]] | list[int] | None = None
    ensure_weight_tying: bool = False
    modules_to_save: list[str] | None = None
    lora_bias: bool = False
    alora_invocation_tokens: list[int] | None = None

    def rank(self, module: str) -> int:
        """The rank of a module's factors."""
        return self.rank_pattern.get(_pattern_of(module, self.rank_pattern), self.r)

    def scale(self, module: str) -> float:
        """Factor of B: alpha / r, or alpha / sqrt(r) with rsLoRA (Kalajdzievski 2023)."""
        alpha = self.alpha_pattern.get(_pattern_of(module, self.alpha_pattern), self.lora_alpha)
        rank = self.rank(module)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)

    def saves(self, module: str) -> bool:
        """Whether a module was trained whole. peft compares the ends of names."""
        return any(module.endswith(name) for name in self.modules_to_save or ())

    def targets(self, module: str) -> bool:
        """Whether peft would put factors beside this module."""
        if self.exclude_modules and _named(module, self.exclude_modules):
            return False
        if self.target_modules is None or self.target_modules == "all-linear":
            return True
        if isinstance(self.target_modules, list) and module in self.target_modules:
            return True
        return _named(module, self.target_modules) and self._in_layers(module)

    def _in_layers(self, module: str) -> bool:
        if self.layers_to_transform is None or self.layers_to_transform == []:
            return True
        patterns = [self.layers_pattern] if isinstance(self.layers_pattern, str) else self.layers_pattern
        prefixes = [rf"(?:^|.*?\.){pattern}" for pattern in patterns or []] or [r".*?\.[^.]*"]
        found = next(filter(None, (re.match(rf"{prefix}\.(\d+)\.", module) for prefix in prefixes)), None)
        layers = self.layers_to_transform
        return found is not None and int(found[1]) in ([layers] if isinstance(layers, int) else layers)


Settings = TypeVar("Settings", bound=LoraConfig)


def read_config(
    source: Source, *, with_head: bool = False, ends: Ends | None = None, invoked: bool = False
) -> tuple[LoraConfig, list[str]]:
    """Reads an adapter's configuration. Returns it and the reasons why it cannot be served.

    with_head: fully trained modules are allowed, as the adapter has its own head. ends: that the bundle has sockets for.
    invoked: whether an adapter may act from the tokens on that invoke it (aLoRA).

    Raises: AdapterError where it is no LoRA configuration at all.
    """
    fields = {**source.config}
    kind = fields.get("peft_type")
    if kind != "LORA":
        raise AdapterError(f"{source.place} holds an adapter of peft_type {kind!r}, no LoRA; {MERGE}")
    config = parsed(LoraConfig, source)
    if with_head:
        fields.pop("modules_to_save", None)
    if invoked:
        fields.pop("alora_invocation_tokens", None)
    if ends is not None and ends.has_biases:
        fields.pop("lora_bias", None)
    if ends is not None and "tokens" in ends.kinds:
        fields.pop("trainable_token_indices", None)
        whole = config.modules_to_save or ()
        if all(ends.embedding.endswith(name) or ends.head.endswith(name) for name in whole):
            fields.pop("modules_to_save", None)
    return config, _refused(fields, config)


def parsed(kind: type[Settings], source: Source) -> Settings:
    """An adapter's settings. Raises: AdapterError where one has another type, or a pattern is none."""
    try:
        config = kind.model_validate(
            {name: value for name, value in source.config.items() if value is not None}
        )
        _try_patterns(config)
    except ValidationError as error:
        problems = "; ".join(f"{problem['loc'][0]}: {problem['msg']}" for problem in error.errors())
        raise AdapterError(f"{source.config_place} cannot be used: {problems}") from None
    except re.error as error:
        raise AdapterError(
            f"{source.config_place}: {error.pattern!r} is not a valid pattern: {error}"
        ) from None
    return config


def _refused(fields: dict[str, Any], config: LoraConfig) -> list[str]:
    problems = [f"{name} is set: {reason}" for name, reason in REFUSED.items() if fields.get(name)]
    if (init := fields.get("init_lora_weights")) not in PLAIN_INITS:
        problems.append(
            f"init_lora_weights is {init!r}: it changed the base's weights when training began; save it with peft's "
            "path_initial_model_for_weight_conversion"
        )
    ranks = {"r": config.r, **config.rank_pattern}
    return problems + [f"{name} is {rank}, a rank is 1 or more" for name, rank in ranks.items() if rank < 1]


def _try_patterns(config: LoraConfig) -> None:
    """Raises: re.error for an invalid pattern."""
    regexes = [value for value in (config.target_modules, config.exclude_modules) if isinstance(value, str)]
    layers = [config.layers_pattern] if isinstance(config.layers_pattern, str) else config.layers_pattern
    for pattern in (*regexes, *config.rank_pattern, *config.alpha_pattern, *(layers or [])):
        re.compile(pattern)


def _pattern_of(module: str, patterns: Iterable[str]) -> str:
    """The first pattern that matches the end of the module's path, as peft's get_pattern_key; else the path itself."""
    return next((pattern for pattern in patterns if matches(pattern, module)), module)


def _named(module: str, names: list[str] | str) -> bool:
    """A string is a regular expression for the whole path; of a list, each name may be the path's end."""
    if isinstance(names, str):
        return re.fullmatch(names, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in names)
