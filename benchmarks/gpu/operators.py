"""ptune's graphs of a small random model on onnxruntime's CUDA provider, node by node.

fp32, int8, int4, nf4, and fp32 turned to fp16 by onnxruntime's own tool: which kinds of nodes the card ran, which were left to the
CPU, and how far log-probabilities are from the CPU's. The engine itself computes on the CPU: this says what is missing for more.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from benchmarks import plan as grid
from benchmarks.gpu.model import TINY

PROFILES = ("fp32", "int8", "int4", "nf4", "fp16")
POSITIONS = 32


def run(work: Path, *, tiny: bool) -> dict[str, Any]:
    import numpy as np
    import onnxruntime

    from ptune.verify.decoder.graph import PlainGraph

    provider = "CUDAExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        if not tiny:
            raise SystemExit("this onnxruntime has no CUDAExecutionProvider: pip install onnxruntime-gpu")
        provider = "CPUExecutionProvider"
    paths, signature = graphs(work)
    ids = np.random.default_rng(0).integers(5, signature.vocab_size, POSITIONS).tolist()
    reference = PlainGraph(paths["fp32"], signature, 2).logprobs(ids, range(POSITIONS))
    found: dict[str, Any] = {}
    for profile, path in paths.items():
        options = onnxruntime.SessionOptions()
        options.enable_profiling, options.profile_file_prefix = True, str(work / profile)
        options.log_severity_level = 3
        graph = PlainGraph.__new__(PlainGraph)
        graph.signature = signature
        try:
            graph.session = onnxruntime.InferenceSession(
                path, options, providers=dict.fromkeys([provider, "CPUExecutionProvider"])
            )
            said = graph.logprobs(ids, range(POSITIONS))
        except Exception as error:  # onnxruntime's errors have no common base but this
            found[profile] = {"failed": str(error)[:300]}
            continue
        found[profile] = {
            "max_abs_logprob": float(np.abs(said - reference).max()),
            **where_nodes_ran(Path(graph.session.end_profiling())),
        }
    return found


def graphs(work: Path) -> tuple[dict[str, Path], Any]:
    """Every profile of one small base, without their gates (random weights would not pass those of quality), and its signature."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    from ptune.config.recipe import Backbone
    from ptune.export.decoder.int4 import write_int4
    from ptune.export.decoder.int8 import write_int8
    from ptune.export.decoder.nf4 import write_nf4
    from ptune.export.weights import ModelWeights
    from ptune.export.write import write_bundle
    from ptune.formats.bundle import Bundle
    from ptune.publish.decoder_run import reference

    grid.MODELS["tiny"] = ("LlamaConfig", TINY)
    setting = grid.Setting("tiny", 16, 128, 1, True, "nf4")
    if not (work / "tiny" / "tokenizer.json").is_file():
        grid.build(work, [setting])
    paths = {name: work / "bundle" / "graphs" / name / "model.onnx" for name in PROFILES}
    if not (work / "bundle" / "manifest.json").is_file():
        base = reference(Backbone(model=str(work / "tiny"), quantize="nf4", dtype="float32"))
        weights = ModelWeights(base.model)
        write_bundle(work / "bundle", base.model.config, weights, base.codec, base.identity)
    for name, write_profile in (("int8", write_int8), ("int4", write_int4), ("nf4", write_nf4)):
        write_profile(paths["fp32"], paths[name])
    half = convert_float_to_float16(onnx.load(paths["fp32"]), keep_io_types=True)
    paths["fp16"].parent.mkdir(exist_ok=True)
    onnx.save(half, paths["fp16"])
    return paths, Bundle.open(work / "bundle").decoder


def where_nodes_ran(profile: Path) -> dict[str, Any]:
    """Kinds of nodes by the provider that ran them, by onnxruntime's own profile."""
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    for event in json.loads(profile.read_text()):
        about = event.get("args", {})
        if event.get("cat") == "Node" and "provider" in about:
            kinds[about["provider"].removesuffix("ExecutionProvider")][about["op_name"]] += 1
    return {"nodes": {provider: dict(count.most_common()) for provider, count in kinds.items()}}
