"""An encoder's speed against PyTorch and plain onnxruntime: python -m benchmarks.encode --images FOLDER --work FOLDER

MiniLM (all-MiniLM-L6-v2, texts of 128 tokens) and ResNet-18/50 (224 x 224), in batches of 1 and 32.

eager                   transformers as it comes (sdpa), in inference mode
compiled                the same through torch.compile
channels last           of ResNets: eager in torch.channels_last
compiled channels last  both
plain onnx              torch.onnx.export(dynamo=True), the exporter's own optimiser and onnxruntime's defaults
openvino                the same export in OpenVINO, where that is installed (openvino)
openvino int8           of ResNets: rounded by NNCF with its defaults, where that is installed (nncf)
fp32                    a bundle's body through the engine's sessions and passes; of MiniLM with adapters possible, of ResNets merged
sockets                 of ResNets: the body that takes adapters, none in use
adapter                 the same under one adapter of rank 16
int8                    the profile int8 of the same body

All sides see the same inputs and must give the same hidden states within 1e-3 of the largest, int8 apart; they take turns
on the same number of threads. What int8 is worth is how often a trained model gives the same answer. With --images, a
folder of Fashion-MNIST's four idx files (Debian: dataset-fashion-mnist), ResNets are trained on it, given an adapter, and
exported merged (`benchmarks.clothes`: once, then kept in --work); their int8 bundle answers all 10,000 test images, and
counts as the best profile where 99 % of the answers are those of fp32. Without it their weights are random, and fp32 is the best.
The weights that are timed at 224 x 224 are those that were trained at 32 x 32. Of MiniLM:

    python -m benchmarks.encode --agreement BUNDLE --texts FILE     (JSONL with `text`; the first 5,000 of them)

--machine amx keeps the rows of another machine beside these: results/encode_amx.json
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks import clothes, goals
from benchmarks.encode_sides import (
    PIXELS,
    THREADS,
    TOKENS,
    Subject,
    eager,
    openvino,
    ours,
    plain_onnx,
    prepare,
)
from benchmarks.sides import Measured, alternate, ratio

PAIRS = 15
TOLERANCE = 1e-3  # of the largest hidden state
GOALS = {("fp32", 1): 1.7, ("fp32", 32): 1.0, ("best", 1): 2.5, ("best", 32): 1.5}
COMPILED = 1.2  # MiniLM's best profile against torch.compile
PACKAGES = ("ptune", "torch", "transformers", "onnx", "onnxscript", "onnxruntime", "openvino", "nncf")
PEERS = ("eager", "compiled", "channels last", "compiled channels last", "plain onnx", "openvino")
OTHERWISE = ("int8", "openvino int8", "adapter")  # sides that do not compute the base in float32
TEXTS, AGREEMENT = 5000, 0.99
MODELS = ("minilm", "resnet18", "resnet50")


def compared(subject: Subject, batch: int, pairs: int) -> dict[str, list[Measured]]:
    """All sides of one row, in turns."""
    sides: dict[str, Callable[[], Iterator[Measured]]] = {
        "eager": functools.partial(eager, subject, batch, False),
        "compiled": functools.partial(eager, subject, batch, True),
        "plain onnx": functools.partial(plain_onnx, subject, batch),
    }
    if not subject.is_text:
        sides["channels last"] = functools.partial(eager, subject, batch, False, True)
        sides["compiled channels last"] = functools.partial(eager, subject, batch, True, True)
    if find_spec("openvino"):
        sides["openvino"] = functools.partial(openvino, subject, batch, False)
        if find_spec("nncf") and not subject.is_text:
            sides["openvino int8"] = functools.partial(openvino, subject, batch, True)
    for side in ("fp32", "int8") if subject.is_text else ("fp32", "sockets", "adapter", "int8"):
        sides[side] = functools.partial(ours, subject, batch, side)
    found = alternate(sides, pairs, threads=THREADS)
    reference = dict(found["eager"][0])
    for side, passes in found.items():
        off = max(abs(a - b) for a, b in zip(passes[0]["sample"], reference["sample"], strict=True))
        if side not in OTHERWISE and off > TOLERANCE * reference["largest"]:
            raise SystemExit(f"{subject.name}, batch {batch}: {side} computes otherwise: off by {off:.2g}")
        for one in passes:
            del one["sample"], one["largest"]
    return found


def main() -> int:
    """Prints the table, writes results/encode.json; 1 where a goal is missed."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--models", nargs="*", default=list(MODELS), choices=MODELS)
    options.add_argument("--batches", nargs="*", type=int, default=[1, 32], choices=(1, 32))
    options.add_argument("--pairs", type=int, default=PAIRS)
    options.add_argument(
        "--dry-run", action="store_true", help="print, but leave results/encode.json as it is"
    )
    options.add_argument("--agreement", type=Path, metavar="BUNDLE", help="measure agreement alone")
    options.add_argument("--texts", type=Path, help="of --agreement: JSONL with `text`")
    options.add_argument("--images", type=Path, metavar="FOLDER", help="Fashion-MNIST's four idx files")
    options.add_argument(
        "--work", type=Path, metavar="FOLDER", help="of --images: where trained models are kept"
    )
    options.add_argument("--machine", default="", help="a name for this machine, for a file of its own")
    chosen = options.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if (chosen.agreement is None) != (chosen.texts is None):
        options.error("--agreement BUNDLE and --texts FILE go together")
    if (chosen.images is None) != (chosen.work is None):
        options.error("--images FOLDER and --work FOLDER go together")
    if chosen.agreement is not None:
        row = agreement(chosen.agreement, chosen.texts)
        if not chosen.dry_run:
            keep(chosen.machine, row, {})
        return 0 if row["int8_agreement_texts"]["met"] else 1
    rows: dict[str, Any] = {}
    passes: dict[str, Any] = {}
    for name in chosen.models:
        with tempfile.TemporaryDirectory() as place:
            subject, share = Subject(name, Path(place)), None
            if chosen.images is not None and not subject.is_text:
                subject, row = classifying(subject, chosen.images, chosen.work)
                rows[f"{name}_int8_agreement"], share = row, row["share"]
            prepare(subject)
            for batch in chosen.batches:
                found = compared(subject, batch, chosen.pairs)
                passes[f"{name}_b{batch}"] = found
                rows |= judged(name, batch, found, share)
    if not chosen.dry_run:
        keep(chosen.machine, rows, passes)
    return 0 if all(row["met"] is not False for row in rows.values()) else 1


def keep(machine: str, rows: Mapping[str, Any], passes: Mapping[str, Any]) -> None:
    """Writes rows into results/encode.json, or a named machine's file; those of other calls stay."""
    command = "python -m benchmarks.encode --images FOLDER --work FOLDER"
    document = {"command": command, "threads": THREADS, "tokens": TOKENS, "pixels": PIXELS}
    goals.keep(
        "_".join(filter(None, ["encode", machine])), {**document, "rows": rows, "passes": passes}, PACKAGES
    )


def classifying(subject: Subject, images: Path, work: Path) -> tuple[Subject, dict[str, Any]]:
    """A ResNet with weights that tell clothes apart, and how often its int8 bundle says what its fp32 says."""
    work.mkdir(parents=True, exist_ok=True)
    bundle = clothes.exported(subject.name, images, work, THREADS)
    found = clothes.agreement(bundle, images, THREADS)
    met = found["share"] >= AGREEMENT
    told = ", ".join(f"{profile} {found[f'{profile}_accuracy']:.2%} right" for profile in ("fp32", "int8"))
    print(
        f"{subject.name}_int8_agreement: {found['share']:.2%} of {found['images']} ({told}): {'met' if met else 'MISSED'}",
        flush=True,
    )
    return replace(subject, bundle=bundle, images=images), {
        **found,
        "pixels": clothes.SIDE,
        "goal": AGREEMENT,
        "met": met,
    }


def judged(
    name: str, batch: int, found: Mapping[str, list[Measured]], agreement: float | None
) -> dict[str, Any]:
    """Rows of one table: ours against every peer; a goal is met where the worse end of the interval meets it.

    agreement: of a ResNet's int8 with its fp32; None where it is not known.
    """
    seconds = {side: [one["seconds"] for one in passes] for side, passes in found.items()}
    rows = {}
    for side, peer in itertools.product(("fp32", "sockets", "adapter"), PEERS):
        if side in seconds and peer in seconds:
            value = ratio(seconds[peer], seconds[side])
            goal = GOALS["fp32", batch] if (side, peer) == ("fp32", "eager") else None
            key = f"{name}_b{batch}_{side}_vs_{peer.replace(' ', '_')}"
            rows[key] = {**asdict(value), "goal": goal, "met": None if goal is None else value.low >= goal}
    verified = name == "minilm" or (agreement is not None and agreement >= AGREEMENT)
    rows |= best(name, batch, seconds, ("fp32", "int8") if verified else ("fp32",))
    for key, row in rows.items():
        told = "" if row["goal"] is None else f"   goal ≥ {row['goal']}: {'met' if row['met'] else 'MISSED'}"
        which = f"   {row['profile']}" if "profile" in row else ""
        if which == "   int8" and agreement is not None:
            which += f", {agreement:.2%} the answers of fp32"
        print(
            f"{key:<36} {row['median']:.2f}  [{row['low']:.2f}, {row['high']:.2f}]{which}{told}", flush=True
        )
    return rows


def best(
    name: str, batch: int, seconds: Mapping[str, list[float]], verified: Sequence[str]
) -> dict[str, Any]:
    """The rows of int8, and of whichever verified profile is the fastest."""
    fastest = min(verified, key=lambda side: statistics.median(seconds[side]))
    goal = GOALS["best", batch]
    value = ratio(seconds["eager"], seconds[fastest])
    rows: dict[str, Any] = {
        f"{name}_b{batch}_best_vs_eager": {
            **asdict(value), "goal": goal, "met": value.low >= goal, "profile": fastest
        },
    }  # fmt: skip
    for peer in [peer for peer in PEERS[1:] if peer in seconds]:
        value = ratio(seconds[peer], seconds[fastest])
        wanted = COMPILED if (name, peer) == ("minilm", "compiled") else None
        rows[f"{name}_b{batch}_best_vs_{peer.replace(' ', '_')}"] = {
            **asdict(value), "goal": wanted, "met": None if wanted is None else value.low >= wanted, "profile": fastest
        }  # fmt: skip
    for peer in [peer for peer in ("fp32", "openvino int8") if peer in seconds]:
        value = ratio(seconds[peer], seconds["int8"])
        rows[f"{name}_b{batch}_int8_vs_{peer.replace(' ', '_')}"] = {
            **asdict(value), "goal": None, "met": None
        }  # fmt: skip
    return rows


def agreement(bundle: Path, texts: Path) -> dict[str, Any]:
    """How many of the first texts of a file get the same label by fp32 and int8 under a bundle's first adapter."""
    import numpy as np

    from ptune.tasks.encoder.infer import load

    with texts.open(encoding="utf-8") as file:
        given = [json.loads(line)["text"] for line in itertools.islice(file, TEXTS)]
    labels, chances = [], []
    for profile in ("fp32", "int8"):
        with closing(load(bundle, profile=profile, threads=THREADS)) as model:
            name = next(iter(model.adapters))
            said = model.classify(given, name)
            order = model.adapters[name].labels
        labels.append(np.array([one.label for one in said]))
        chances.append(np.array([[one.scores[label] for label in order] for one in said]))
    share, moved = float((labels[0] == labels[1]).mean()), float(np.abs(chances[0] - chances[1]).mean())
    met = share >= AGREEMENT and len(given) == TEXTS
    print(
        f"int8_agreement_texts: {share:.2%} of {len(given)}, mean |Δp| {moved:.4f}: {'met' if met else 'MISSED'}"
    )
    row = {"share": share, "texts": len(given), "mean_abs_dp": moved, "goal": AGREEMENT, "met": met}
    return {"int8_agreement_texts": {**row, "adapter": name, "file": texts.name}}


if __name__ == "__main__":
    sys.exit(main())
