"""A table of which common model sizes fit on which card, and how. Predicted; nothing here was measured on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rich.table import Table
from transformers import LlamaConfig, PretrainedConfig

from ptune.config.recipe import Backbone, Recipe, Train
from ptune.methods.lora import Lora
from ptune.planning.depth import Shallow, in_shapes
from ptune.planning.files import Described
from ptune.planning.hardware import GIB, usable
from ptune.planning.prediction import ledger_of, step_of
from ptune.planning.step import Work
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
# Row lengths that are simulated. A step is fullest at its loss for short rows and at a layer's backward pass for long ones, so
# memory is the higher of two straight lines.
_SHORT, _MIDDLE, _LONG = LENGTH, 4 * LENGTH, 8 * LENGTH


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


def lines(config: PretrainedConfig, base: str, checkpointing: bool, rank: int = 16) -> tuple[Line, Line]:
    """Memory of a LoRA training of `config` on a GPU: one line for short rows, one for long rows; the higher one counts."""
    recipe = Recipe(
        backbone=Backbone(quantize="nf4" if base == "nf4" else "none", dtype="bfloat16"),
        method=Lora(r=rank),
        train=Train(gradient_checkpointing=checkpointing),
    )
    model = in_shapes(config, recipe, torch.bfloat16, "cuda")
    short, middle, long = (needed_bytes(model, recipe, tokens) for tokens in (_SHORT, _MIDDLE, _LONG))
    return _through((_SHORT, short), (_MIDDLE, middle)), _through((_MIDDLE, middle), (_LONG, long))


def _through(first: tuple[int, int], second: tuple[int, int]) -> Line:
    """The line through two pairs of tokens and bytes."""
    a_token = (second[1] - first[1]) / (second[0] - first[0])
    return Line(first[1] - a_token * first[0], a_token)


def needed_bytes(model: Shallow, recipe: Recipe, tokens: int) -> int:
    """Memory on a GPU with rows of this many tokens."""
    row = (LENGTH,) * (tokens // LENGTH)
    step = step_of(model, recipe, Work(row, 2, ()), "cuda")
    config = model.few.backbone.config
    ledger = ledger_of(step, model, recipe, Described(config, "unknown", 0, None), "cuda", tokens)
    return ledger.step_bytes + ledger.baseline


def table(names: Sequence[str] = tuple(SHAPES)) -> Table:
    """A table of models by cards: the cheapest way that fits, and its largest row."""
    shown = Table(
        title=f"LoRA r=16 on examples of {LENGTH} tokens: predicted, not measured on a GPU",
        title_justify="left",
    )
    shown.add_column("model")
    for card in CARDS_GIB:
        shown.add_column(f"{card} GB")
    label = "which models fit on which cards"
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
        both = lines(config, base, checkpointing)
        for card in CARDS_GIB:
            tokens = min(line.tokens(usable(card * GIB)) for line in both)
            if tokens and card not in fitting:
                fitting[card] = f"{base}{' +gc' if checkpointing else ''} {tokens}"
        if progress is not None:
            progress.advance()
    return [fitting.get(card, "–") for card in CARDS_GIB]
