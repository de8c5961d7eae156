"""What each command of a chat model's way takes: main memory, the card, disk. Arithmetic on top of a step's ledger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from rich.table import Table
from transformers import AutoModelForCausalLM, PretrainedConfig

from ptune.backbone.float32 import SMALL_BYTES
from ptune.backbone.packed_cache import WORTH_BYTES
from ptune.config.recipe import Recipe
from ptune.engine.memory import PROCESS_BYTES, opened_bytes
from ptune.engine.options import EngineOptions
from ptune.formats.bundle import Stored
from ptune.methods.peft_method import PeftMethod
from ptune.planning.memory_ledger import Ledger, gigabytes
from ptune.planning.model_memory import Sizes, cache_bytes_a_token, sizes_of, state_bytes, without_weights

# Memory that a command holds beside weights: its code, its buffers, what it computes with. Measured on a Llama of 242 million
# weights in nf4, where merging took 1.82 GB (1.91 by these sums) and an answer from the served graph 1.11 GB (1.13); of 1.17
# billion weights an answer took .90 GB (.95).
_TRAINING = 473 * 2**20
# Of 1.17 and 7.38 billion weights evaluating rows of 512 tokens took .61 GB (.64 by these sums) and .82 (.80).
_EVALUATING = 418 * 2**20
_MERGING = 900 * 2**20
SERVED_TOKENS = 4096  # in the KV cache of the table
# The same of an export, and what its proof computes with: the log-probabilities at so many positions, which are kept in files
# (ptune.verify.spool), and the scores of so many queries in a context of so many bytes of keys and values, or the keys and values
# of so many tokens. Measured on Llamas of 15 million and 1.17 billion weights, where an export took 1.21 GB (1.34 by these sums)
# and 2.08 (2.13). Writing the graph of 7.38 billion took 3.79 (3.68).
_PROVING, _WRITING = 1018 * 2**20, 760 * 2**20
_POSITIONS = 16 * 32
_QUERIES, _CONTEXT_BYTES = 320, 1 << 29
_PROVED_TOKENS = 2 * 16 * 256  # under the base and an adapter

Command = Literal["train", "evaluate", "merge", "export", "serve"]


@dataclass(frozen=True)
class Need:
    """What a command takes, in bytes."""

    command: Command
    main_memory: int  # of the process's own; mapped files do not count
    card: int  # 0: it computes on the CPU
    disk: int  # what it writes, at its fullest
    note: str = ""


def needs(recipe: Recipe, ledger: Ledger, config: PretrainedConfig) -> list[Need]:
    """What the commands take after `ptune train`, in the order in which they are given."""
    model = without_weights(config, AutoModelForCausalLM, trust_remote_code=recipe.backbone.trust_remote_code)
    sizes = sizes_of(model)
    base, on_card = ledger.weights + ledger.quantisation_state + ledger.away, ledger.device == "cuda"
    loading = ledger.main_memory if on_card else ledger.loading
    adapted = isinstance(recipe.method, PeftMethod)
    trained = ledger.adapter if adapted else 4 * sizes.parameters
    checkpoint = trained + (ledger.optimiser if ledger.optimiser else 2 * trained)
    nf4 = recipe.backbone.quantize == "nf4" and adapted
    served = sizes.served()["nf4" if nf4 else "fp32"]
    ends = 4 * sizes.head * (1 if sizes.tied else 2)
    each = _bytes_a_weight(recipe, ledger, sizes)
    trained_ends = ends * each // 4
    layers = base - trained_ends if adapted else 4 * sizes.layers
    answering = opened_bytes(served, 4 * sizes.head, 4 * sizes.largest, nf4=nf4) + (trained if adapted else 0)
    # After a training the weights of a large base lie in files, whose pages the system takes back: packed, or as they were published.
    kept = _kept_in_files(recipe, sizes)
    in_files = ledger.weights + ledger.quantisation_state - (trained_ends if each == 4 else 0)
    held, read = (in_files, 0) if kept else (0, loading)
    # As many states as sequences may run, and snapshots of them; the engine gives them half of its memory at most.
    states = min(2 * EngineOptions.max_rows * state_bytes(model), EngineOptions.kv_bytes // 2)
    cache = SERVED_TOKENS * cache_bytes_a_token(config) + states
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
            _TRAINING + read if on_card else _EVALUATING + max(read, ledger.evaluation - held),
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
            _exporting(config, sizes, ends, layers, answering, None if kept else loading + ledger.away),
            0,
            served if nf4 else 4 * sizes.parameters,
            f"--profiles {'nf4' if nf4 else 'fp32'}, with its proof",
        ),
        Need("serve", PROCESS_BYTES + answering + cache, 0, served, f"{SERVED_TOKENS} tokens in the cache"),
    ]


def _exporting(
    config: PretrainedConfig, sizes: Sizes, ends: int, layers: int, opened: int, read: int | None
) -> int:
    """Main memory of an export.

    ends, layers: bytes of the model in torch; opened: of the graph, whose weights are in a file. read: while the model is read;
    None: it is in files, and its layers stay there.
    """
    text = config.get_text_config()
    numbers = 4 * text.vocab_size * _POSITIONS
    kept = cache_bytes_a_token(config)  # none where no layer attends
    context = min(text.max_position_embeddings, _CONTEXT_BYTES // kept) if kept else 0
    scores = 4 * text.num_attention_heads * _QUERIES * context if kept else 0
    reference = ends if read is None else ends + layers
    beside = (
        reference if ends + layers <= SMALL_BYTES else 0
    )  # a larger one is dropped before a graph is opened
    made = 8 * sizes.largest  # a layer's weights in float32 as it is used, and what they are made of
    written = reference + 4 * sizes.head + made  # the head is turned round, as the graph has it
    computed = reference + numbers + made
    held = min(EngineOptions.kv_bytes, kept * _PROVED_TOKENS)
    served = opened + numbers + max(scores, held)
    return max(_WRITING + max(read or 0, written), _PROVING + max(computed, beside + served))


def _kept_in_files(recipe: Recipe, sizes: Sizes) -> bool:
    """Whether the packed weights are kept (`ptune.backbone.packed_cache`): of models published in two bytes a weight."""
    backbone = recipe.backbone
    if backbone.quantize in get_args(Stored):  # they are mapped from the published files
        return True
    return backbone.quantize != "none" and backbone.cache and 2 * sizes.parameters >= WORTH_BYTES


def _bytes_a_weight(recipe: Recipe, ledger: Ledger, sizes: Sizes) -> int:
    """Bytes of a weight that is not quantised."""
    if recipe.backbone.quantize == "none":
        return round((ledger.weights + ledger.away) / sizes.parameters)
    packed = sizes.layers * (0.5 if recipe.backbone.quantize in ("nf4", "gptq", "awq", "mxfp4") else 1)
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
        table.add_row(need.command, memory, card, disk, need.note)
    return table
