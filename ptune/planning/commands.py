"""What each command of a chat model's way takes: main memory, the card, disk. Arithmetic on top of a step's ledger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.table import Table
from transformers import AutoModelForCausalLM, PretrainedConfig

from ptune.backbone.float32 import SMALL_BYTES
from ptune.config.recipe import Recipe
from ptune.engine.memory import PROCESS_BYTES, opened_bytes
from ptune.methods.lora import Lora
from ptune.planning.memory_ledger import Ledger, gigabytes
from ptune.planning.model_memory import Sizes, cache_bytes_a_token, sizes_of, without_weights

# Memory that a command holds beside weights: its code, its buffers, what it computes with. Measured on a Llama of 242 million
# weights in nf4, where merging took 1.82 GB (1.91 by these sums) and an answer from the served graph 1.11 GB (1.13); of 1.17
# billion weights an answer took .90 GB (.95).
_TRAINING = 473 * 2**20
_MERGING = 900 * 2**20
SERVED_TOKENS = 4096  # in the KV cache of the table

Command = Literal["train", "evaluate", "merge", "export", "serve"]


@dataclass(frozen=True)
class Need:
    """What a command takes, in bytes."""

    command: Command
    main_memory: int  # of the process's own; mapped files do not count
    card: int  # 0: it computes on the CPU
    disk: int  # what it writes, at its fullest
    note: str = ""
    at_least: bool = False  # main memory of the weights alone: what the proof computes with is not predicted


def needs(recipe: Recipe, ledger: Ledger, config: PretrainedConfig) -> list[Need]:
    """What the commands take after `ptune train`, in the order in which they are given."""
    model = without_weights(config, AutoModelForCausalLM, trust_remote_code=recipe.backbone.trust_remote_code)
    sizes = sizes_of(model)
    base, on_card = ledger.weights + ledger.quantisation_state + ledger.away, ledger.device == "cuda"
    loading = ledger.main_memory if on_card else ledger.loading
    adapted = isinstance(recipe.method, Lora)
    trained = ledger.adapter if adapted else 4 * sizes.parameters
    checkpoint = trained + (ledger.optimiser if ledger.optimiser else 2 * trained)
    nf4 = recipe.backbone.quantize == "nf4" and adapted
    served = sizes.served()["nf4" if nf4 else "fp32"]
    ends = 4 * sizes.head * (1 if sizes.tied else 2)
    layers = base - ends * _bytes_a_weight(recipe, ledger, sizes) // 4 if adapted else 4 * sizes.layers
    opened = opened_bytes(served, 4 * sizes.head, nf4=False)
    answering = opened_bytes(served, 4 * sizes.head, nf4=nf4)
    # A large reference is dropped before a graph is opened, and read again (ptune.publish.decoder).
    beside_each_other = layers + ends + opened if ends <= SMALL_BYTES else max(layers + ends, opened)
    cache = SERVED_TOKENS * cache_bytes_a_token(config)
    return [
        Need(
            "train",
            _TRAINING + max(loading, ledger.offloaded) if on_card else ledger.needed_bytes,
            ledger.needed_bytes if on_card else 0,
            trained + (recipe.train.keep_checkpoints + 1) * checkpoint + ledger.away,
            f"{recipe.train.keep_checkpoints} checkpoints kept{', layers streamed' if ledger.away else ''}",
        ),
        Need(
            "evaluate",
            _TRAINING + (loading if on_card else max(loading, ledger.evaluation)),
            ledger.baseline + ledger.evaluation if on_card else 0,
            0,
        ),
        Need(
            "merge",
            _MERGING + max(loading + ledger.away, layers + ends),
            0,
            8 * sizes.parameters,
            "bfloat16: half the disk",
        ),
        Need(
            "export",
            _MERGING + max(loading + ledger.away, beside_each_other),
            0,
            served if nf4 else 4 * sizes.parameters,
            f"--profiles {'nf4' if nf4 else 'fp32'}; its proof takes some GB more",
            at_least=True,
        ),
        Need("serve", PROCESS_BYTES + answering + cache, 0, served, f"{SERVED_TOKENS} tokens in the cache"),
    ]


def _bytes_a_weight(recipe: Recipe, ledger: Ledger, sizes: Sizes) -> int:
    """Bytes of a weight that is not quantised."""
    if recipe.backbone.quantize == "none":
        return round((ledger.weights + ledger.away) / sizes.parameters)
    packed = sizes.layers * (1 if recipe.backbone.quantize == "int8" else 0.5)
    beside = ledger.weights + ledger.away - packed
    return 4 if beside > 3 * (sizes.parameters - sizes.layers) else 2


def commands_table(rows: Sequence[Need], *, changed: bool) -> Table:
    """The needs as a table for the terminal. changed: they are of a recipe with what was proposed."""
    title = f"what each command takes{', with these changes' if changed else ''}: predicted"
    table = Table(title=title, title_justify="left")
    for name in ("command", "main memory", "card", "disk", ""):
        table.add_column(name, justify="left" if name in ("command", "") else "right")
    for need in rows:
        memory, card, disk = (
            gigabytes(amount) if amount else "–" for amount in (need.main_memory, need.card, need.disk)
        )
        table.add_row(need.command, f"{'from ' if need.at_least else ''}{memory}", card, disk, need.note)
    return table
