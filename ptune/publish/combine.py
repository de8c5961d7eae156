"""Several LoRA adapters of one base into one, by peft's own `add_weighted_adapter`.

peft needs no base for it: its layers stand beside linear layers without memory. What peft gets wrong is kept from it: it forgets
patterns of ranks (peft issue 3737) and rsLoRA's scale (3761), so each layer's scale is stated to it as alpha / r, and what it
has made is written with one rank, filled up with zeros.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from torch import nn

from ptune.engine.adapters.lora import Pair, pairs_of
from ptune.engine.adapters.peft_config import PEFT_PREFIX
from ptune.errors import AdapterError, UsageError
from ptune.evaluation.parts import Judged, judge
from ptune.evaluation.update_difference import Update, apart, summed
from ptune.formats.run import Run
from ptune.formats.whole_write import read_json, sha256_of, whole_folder, write_json, write_text
from ptune.methods.peft_method import in_order
from ptune.publish.combined_card import card
from ptune.publish.publishable import FinishedRun

How = Literal[
    "cat",
    "linear",
    "svd",
    "ties",
    "ties_svd",
    "dare_linear",
    "dare_linear_svd",
    "dare_ties",
    "dare_ties_svd",
    "magnitude_prune",
    "magnitude_prune_svd",
]
"""peft's names."""
FORMAT = 1  # of combined.json
RECORD, OWN, WEIGHTS = "combined.json", "ptune.json", "adapter_model.safetensors"
Factors = Mapping[str, tuple[torch.Tensor, torch.Tensor]]  # layer -> A [r, in], B [out, r], whose scale is 1


@dataclass(frozen=True)
class Part:
    """An adapter that goes in."""

    name: str
    folder: Path  # PEFT's files
    run: Run | None
    sha256: str  # of its weights
    facts: dict[str, Any]  # ptune.json; empty where another program trained it
    config: dict[str, Any]  # adapter_config.json
    pairs: dict[str, Pair]

    @classmethod
    def open(cls, source: Path) -> Part:
        """Opens a run or a PEFT folder. Raises: AdapterError; FormatError; UsageError for a run that has not finished."""
        run = Run(source) if (source / "run.json").is_file() else None
        folder = source
        if run is not None:
            FinishedRun.open(run)
            folder = run.adapter_path
            if not run.has_adapter:
                raise UsageError(
                    f"{source} has no adapter: its trained weights are in {run.model_path}, and `ptune export {source}` makes a"
                    " bundle of them"
                )
        facts = read_json(folder / OWN) if (folder / OWN).is_file() else {}
        pairs = pairs_of(folder, "combined")
        config = read_json(folder / "adapter_config.json")
        return cls(source.resolve().name, folder, run, sha256_of(folder / WEIGHTS), facts, config, pairs)

    @property
    def base(self) -> str:
        """The base's name, as its trainer called it."""
        return str(self.config.get("base_model_name_or_path"))


@dataclass(frozen=True)
class Combination:
    """How adapters are combined. density: share of numbers that the pruning ways keep; rank: of the ways with svd."""

    how: How = "cat"
    weights: tuple[float, ...] = ()
    density: float | None = None
    rank: int | None = None
    seed: int = 0

    def checked(self, parts: Sequence[Part]) -> Combination:
        """The way with a weight for each part. Raises: UsageError that says what does not go together."""
        prunes = self.how.startswith(("ties", "dare", "magnitude"))
        if len(parts) < 2:
            raise UsageError("combine needs two adapters or more: ptune combine A B --out DIR")
        if self.how not in get_args(How):
            raise UsageError(f"--how {self.how!r}: there is {', '.join(get_args(How))}")
        if self.weights and len(self.weights) != len(parts):
            raise UsageError(f"--weights: there are {len(self.weights)} for {len(parts)} adapters")
        if not all(map(math.isfinite, self.weights)):
            raise UsageError(f"--weights {self.weights}: a weight is a finite number")
        if prunes and not (self.density is not None and 0 < self.density <= 1):
            raise UsageError(
                f"--how {self.how} prunes: say with --density which share of the numbers it keeps, say .2 (is {self.density})"
            )
        if not prunes and self.density is not None:
            raise UsageError(f"--density {self.density}: --how {self.how} prunes nothing; leave it out")
        if self.rank is not None and (self.rank < 1 or not self.how.endswith("svd")):
            raise UsageError(f"--rank {self.rank}: a rank of 1 or more, for the ways that end in svd")
        if not self.how.endswith("svd") and self.how != "cat":
            _refuse_ranks(parts, self.how)
        weights = self.weights or (1 / len(parts),) * len(parts)
        return Combination(self.how, tuple(map(float, weights)), self.density, self.rank, self.seed)


@dataclass(frozen=True)
class Combined:
    """A combined adapter. off: relative distance from the weighted sum of the parts' updates."""

    out: Path
    rank: int
    off: float
    judged: tuple[Judged, ...]


def combine(sources: Sequence[Path], out: Path, way: Combination, *, evaluate: bool = True) -> Combined:
    """Combines adapters into a PEFT folder at `out`: the same bytes for the same parts and way.

    evaluate: measures the base, each part and the result on what the parts' runs held out.
    Raises: UsageError; AdapterError where a part is no plain LoRA of linear layers, or belongs to another base.
    """
    if out.exists():
        raise UsageError(f"{out} exists already: choose another --out")
    parts = _apart_by_name([Part.open(source) for source in sources])
    way = way.checked(parts)
    notes = _agreed(parts)
    factors = _by_peft(parts, way)
    rank = max(len(a) for a, _ in factors.values())
    wanted = [
        {name: Update.of(pair.a, pair.b, weight * pair.scale) for name, pair in part.pairs.items()}
        for part, weight in zip(parts, way.weights, strict=True)
    ]
    got = {name: Update.of(a.numpy(), b.numpy(), 1.0) for name, (a, b) in factors.items()}
    off = apart(got, summed(wanted))
    with whole_folder(out) as stage:
        _write(stage, parts, factors, rank)
        runs = {part.name: (part.run, part.folder) for part in parts if part.run is not None}
        judged = tuple(judge(stage, runs)) if evaluate and runs else ()
        record = {
            "format": FORMAT,
            **asdict(way),
            "off_the_weighted_sum": off,
            "parts": [
                {"name": part.name, "base": part.base, "base_sha256": part.facts.get("base"), "sha256": part.sha256}
                for part in parts
            ],
            "notes": notes,
            "held_out": [asdict(one) for one in judged],
        }  # fmt: skip
        write_json(stage / RECORD, record)
        write_text(stage / "README.md", card(record, out.name, parts[0].config))
    return Combined(out, rank, off, judged)


def _apart_by_name(parts: list[Part]) -> list[Part]:
    """Parts with different names: numbered where two folders are called the same."""
    names = [part.name for part in parts]
    if len(set(names)) == len(names):
        return parts
    return [Part(**{**vars(part), "name": f"{part.name}-{n}"}) for n, part in enumerate(parts, 1)]


def _agreed(parts: Sequence[Part]) -> list[str]:
    """Sentences on what could not be checked. Raises: AdapterError where two parts do not belong together."""
    first, notes = parts[0], []
    for other in parts[1:]:
        hashes = [part.facts.get("base") for part in (first, other)]
        if None not in hashes and hashes[0] != hashes[1]:
            raise AdapterError(
                f"{first.name} and {other.name} are of different bases: weights that hash to {str(hashes[0])[:12]}"
                f" ({first.facts.get('quantize', 'none')}) and {str(hashes[1])[:12]} ({other.facts.get('quantize', 'none')})"
            )
        if None in hashes and first.base != other.base:
            raise AdapterError(
                f"{first.name} and {other.name} are of different bases, {first.base} and {other.base}"
            )
        revisions = [part.config.get("revision") for part in (first, other)]
        if None in hashes and None not in revisions and revisions[0] != revisions[1]:
            raise AdapterError(
                f"{first.name} and {other.name} are of different revisions of {first.base}, {revisions[0]} and {revisions[1]}"
            )
        if None in hashes:
            notes.append(f"{first.name} and {other.name} are of the same base by its name; no hash says so")
        tasks = [part.facts.get("task", "chat") for part in (first, other)]
        if tasks[0] != tasks[1]:
            raise AdapterError(f"{first.name} is for {tasks[0]}, {other.name} for {tasks[1]}")
        asked = ("template", "system", "defaults", "translation")
        if any(first.facts.get(name) != other.facts.get(name) for name in asked):
            notes.append(f"{other.name} was trained with another prompt than {first.name}, whose it is now")
        for name in first.pairs.keys() & other.pairs.keys():
            one, two = (_shape(part.pairs[name]) for part in (first, other))
            if one != two:
                raise AdapterError(f"{name} is {one} in {first.name} and {two} in {other.name}")
    return notes


def _refuse_ranks(parts: Sequence[Part], how: str) -> None:
    """Raises: UsageError where factors of different ranks would have to be added up."""
    for name in sorted({name for part in parts for name in part.pairs}):
        ranks = {len(part.pairs[name].a) for part in parts if name in part.pairs}
        if len(ranks) > 1:
            raise UsageError(
                f"--how {how} adds up factors, which have ranks {' and '.join(map(str, sorted(ranks)))} in {name}:"
                " use cat, or a way that ends in svd"
            )


def _shape(pair: Pair) -> tuple[int, int]:
    """[out, in] of a layer."""
    return pair.b.shape[0], pair.a.shape[1]


def _by_peft(parts: Sequence[Part], way: Combination) -> Factors:
    """peft's combination of the parts."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        return _added(parts, way)


def _added(parts: Sequence[Part], way: Combination) -> Factors:
    """The same, with torch's numbers of chance as they are left."""
    shapes = {name: _shape(pair) for part in parts for name, pair in part.pairs.items()}
    widest = [max(len(pair.a) for pair in part.pairs.values()) for part in parts]
    # Where factors are added up, peft wants one rank of all parts, though it may be one of other layers.
    alike = way.how != "cat" and not way.how.endswith("svd")
    configs = [
        _config(part.pairs, max(widest) if alike else rank) for part, rank in zip(parts, widest, strict=True)
    ]
    model: Any = get_peft_model(_shell(shapes), configs[0], adapter_name="0")
    for number, config in enumerate(configs[1:], 1):
        model.add_adapter(str(number), config)
    layers = {name.removeprefix(PEFT_PREFIX): one for name, one in model.named_modules()}
    for number, part in enumerate(parts):
        for name, pair in part.pairs.items():
            layers[name].lora_A[str(number)].weight.data = torch.from_numpy(pair.a.copy())
            layers[name].lora_B[str(number)].weight.data = torch.from_numpy(pair.b.copy())
    torch.manual_seed(way.seed)
    model.add_weighted_adapter(
        [str(number) for number in range(len(parts))],
        [*way.weights],
        "combined",
        way.how,
        svd_rank=way.rank,
        svd_full_matrices=False,
        density=way.density,
    )
    both = ((layers[name].lora_A["combined"], layers[name].lora_B["combined"]) for name in sorted(shapes))
    return {
        name: (a.weight.detach(), b.weight.detach())
        for name, (a, b) in zip(sorted(shapes), both, strict=True)
    }


def _config(pairs: Mapping[str, Pair], rank: int) -> LoraConfig:
    """peft's config for factors as they are: each layer's rank, at most `rank`, and its scale as alpha / rank."""
    ranks = {re.escape(name): len(pair.a) for name, pair in pairs.items()}
    alphas = {re.escape(name): pair.scale * len(pair.a) for name, pair in pairs.items()}
    return LoraConfig(
        r=rank, lora_alpha=rank, target_modules=[*pairs], rank_pattern=ranks, alpha_pattern=alphas
    )


def _shell(shapes: Mapping[str, tuple[int, int]]) -> nn.Module:
    """A model with these linear layers [out, in], whose weights take no memory."""
    shell = nn.Module()
    for path, (out, width) in shapes.items():
        *parents, name = path.split(".")
        place = shell
        for parent in parents:
            if not hasattr(place, parent):
                place.add_module(parent, nn.Module())
            place = getattr(place, parent)
        layer = nn.Linear(width, out, bias=False, device="meta")
        layer.weight = nn.Parameter(torch.zeros(1, 1).expand(out, width), requires_grad=False)
        place.add_module(name, layer)
    return shell


def _write(stage: Path, parts: Sequence[Part], factors: Factors, rank: int) -> None:
    """PEFT's two files, and what the first part has beside them."""
    first = parts[0]
    tensors = {}
    for name, (a, b) in factors.items():
        tensors[f"{PEFT_PREFIX}{name}.lora_A.weight"] = _filled(a, rank)
        tensors[f"{PEFT_PREFIX}{name}.lora_B.weight"] = _filled(b.T, rank).T.contiguous()
    save_file(tensors, stage / WEIGHTS, metadata={"format": "pt"})
    config = LoraConfig(
        r=rank, lora_alpha=rank, target_modules=[*factors], inference_mode=True,
        base_model_name_or_path=first.config.get("base_model_name_or_path"), task_type=first.config.get("task_type"),
        fan_in_fan_out=bool(first.config.get("fan_in_fan_out")),
    )  # fmt: skip
    in_order(config)
    config.save_pretrained(stage)
    if first.facts:
        write_json(stage / OWN, first.facts)
    template = first.folder / "chat_template.jinja"
    if template.is_file():
        write_text(stage / template.name, template.read_text(encoding="utf-8"))


def _filled(factor: torch.Tensor, rank: int) -> torch.Tensor:
    """A factor [r, n] with rows of zeros up to the rank."""
    return torch.cat([factor, factor.new_zeros(rank - len(factor), factor.shape[1])]).contiguous()
