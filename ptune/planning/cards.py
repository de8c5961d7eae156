"""A table of which common model sizes fit on which card, and how. Predicted; nothing here was measured on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rich.table import Table
from transformers import LlamaConfig, PretrainedConfig

from ptune.config.recipe import Backbone, Recipe, Train
from ptune.methods.lora import Lora
from ptune.planning.files import Described
from ptune.planning.hardware import GIB, usable
from ptune.planning.prediction import ledger_of
from ptune.planning.skeleton import skeleton
from ptune.planning.step import Work, follow
from ptune.progress import Progress

CARDS_GIB = (8, 12, 16, 24, 32)
LENGTH = 1024  # tokens per example

# Layers, hidden size, inner size, heads, kv heads, head size, vocabulary, head tied to the embedding; as published.
SHAPES: dict[str, tuple[int, int, int, int, int, int, int, bool]] = {
    "1B (Llama 3.2)": (16, 2048, 8192, 32, 8, 64, 128256, True),
    "3B (Llama 3.2)": (28, 3072, 8192, 24, 8, 128, 128256, True),
    "8B (Llama 3.1)": (32, 4096, 14336, 32, 8, 128, 128256, False),
    "14B (Qwen 3)": (40, 5120, 17408, 40, 8, 128, 151936, False),
    "32B (Qwen 3)": (64, 5120, 25600, 64, 8, 128, 151936, False),
    "70B (Llama 3.1)": (80, 8192, 28672, 64, 8, 128, 128256, False),
}

# Cheapest first: more time, then another base.
WAYS = (("bf16", False), ("bf16", True), ("nf4", False), ("nf4", True))
_FEW, _MORE = 2, 3  # numbers of layers that are simulated; further layers are alike
_NARROW, _WIDE = (
    LENGTH,
    2 * LENGTH,
)  # row lengths that are simulated; memory is linear in the length


@dataclass(frozen=True)
class Line:
    """Memory as a linear function of the tokens in a row."""

    fixed_bytes: float
    a_token_bytes: float

    def tokens(self, memory_bytes: int) -> int:
        """Tokens of the largest row that fits, in whole examples; 0 if not even one example fits."""
        most = (memory_bytes - self.fixed_bytes) / self.a_token_bytes
        return max(0, int(most) // LENGTH * LENGTH)


def shape(name: str) -> PretrainedConfig:
    """The config of the shape `name`."""
    layers, hidden, inner, heads, kv_heads, head_dim, vocabulary, tied = SHAPES[name]
    return LlamaConfig(
        num_hidden_layers=layers, hidden_size=hidden, intermediate_size=inner, num_attention_heads=heads,
        num_key_value_heads=kv_heads, head_dim=head_dim, vocab_size=vocabulary, tie_word_embeddings=tied,
    )  # fmt: skip


def line(config: PretrainedConfig, base: str, checkpointing: bool, rank: int = 16) -> Line:
    """Memory of a LoRA training of `config` on a GPU, extrapolated from two shallow models and two short rows."""
    recipe = Recipe(
        backbone=Backbone(quantize="nf4" if base == "nf4" else "none", dtype="bfloat16"),
        method=Lora(r=rank),
        train=Train(gradient_checkpointing=checkpointing),
    )
    narrow, wide = (deep_bytes(config, recipe, tokens) for tokens in (_NARROW, _WIDE))
    a_token = (wide - narrow) / (_WIDE - _NARROW)
    return Line(narrow - a_token * _NARROW, a_token)


def deep_bytes(config: PretrainedConfig, recipe: Recipe, tokens: int) -> int:
    """Memory on a GPU of a model with many equal layers: each adds as much as a third layer adds to two."""
    few, more = (_needed(_cut(config, layers), recipe, tokens) for layers in (_FEW, _MORE))
    return few + (config.num_hidden_layers - _FEW) * (more - few) // (_MORE - _FEW)


def _needed(config: PretrainedConfig, recipe: Recipe, tokens: int) -> int:
    row = (LENGTH,) * (tokens // LENGTH)
    model = skeleton(config, recipe, torch.bfloat16)
    followed = follow(model, recipe.train, Work(row, 2, row), foreach=True)
    ledger = ledger_of(followed, model, recipe, Described(config, "unknown", 0, None), "cuda", tokens)
    return ledger.step_bytes + ledger.baseline


def _cut(config: PretrainedConfig, layers: int) -> PretrainedConfig:
    return type(config)(**{**config.to_dict(), "num_hidden_layers": layers, "layer_types": None})


def table(names: Sequence[str] = tuple(SHAPES)) -> Table:
    """A table of models by cards: the cheapest way that fits, and its largest row."""
    shown = Table(
        title=f"LoRA r=16 on examples of {LENGTH} tokens: predicted, not measured on a GPU",
        title_justify="left",
    )
    shown.add_column("model")
    for card in CARDS_GIB:
        shown.add_column(f"{card} GB")
    label = "which models fit on which cards (--no-models leaves it out)"
    with Progress(label, len(names) * len(WAYS), unit="ways") as progress:
        for number, name in enumerate(names, start=1):
            shown.add_row(name, *cells(shape(name), progress))
            progress.advance(number * len(WAYS) - progress.done)  # the ways that were not needed
    shown.caption = (
        "nf4: QLoRA; +gc: gradient_checkpointing; the number: largest micro_batch_tokens; –: does not fit"
    )
    return shown


def cells(config: PretrainedConfig, progress: Progress | None = None) -> list[str]:
    """For each card the cheapest way that fits. Stops when every card has one. `progress` counts the ways tried."""
    fitting: dict[int, str] = {}
    for base, checkpointing in WAYS:
        if len(fitting) == len(CARDS_GIB):
            break
        straight = line(config, base, checkpointing)
        for card in CARDS_GIB:
            tokens = straight.tokens(usable(card * GIB))
            if tokens and card not in fitting:
                fitting[card] = f"{base}{' +gc' if checkpointing else ''} {tokens}"
        if progress is not None:
            progress.advance()
    return [fitting.get(card, "–") for card in CARDS_GIB]
