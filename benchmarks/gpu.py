"""What a GPU does with ptune: python -m benchmarks.gpu [--work FOLDER]        -> benchmarks/results/gpu.json

Twenty minutes at most, and 25 GB of disk, on one card of 24 GB or more. Two parts, each in a process of its own with a limit of
time; what one has found is kept where the other fails.

training   a model of the shape of Llama 3 8B with random weights, held in nf4, LoRA r16, examples of 1,024 tokens with
           checkpointing, in a process that may have 24 GB of the card: the peak that `ptune plan` predicts before any step
           against torch.cuda.max_memory_allocated, and tokens a second.
operators  ptune's graphs of a small random model (fp32, int8, int4, nf4, and fp32 turned to fp16 by onnxruntime's own tool) on
           onnxruntime's CUDA provider: which kinds of nodes it ran, which were left to the CPU, and how far log-probabilities
           are from the CPU's. Needs onnxruntime-gpu.

The engine computes on the CPU: its arrays are bound by their addresses there. This says what is missing for more.

    --tiny    the same with a small model, on the CPU where there is no GPU: tries whether everything works, writes nothing; what it
              says of memory means nothing there
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from benchmarks import plan as grid
from benchmarks.goals import host
from benchmarks.sides import RESULTS, write

PARTS = ("training", "operators")
LIMIT_S = {"training": 900, "operators": 300}
CAP_GB = 24
LENGTH, BATCH, RANK = 1024, 2, 16
PACKAGES = ("ptune", "torch", "transformers", "peft", "bitsandbytes", "onnxruntime-gpu", "onnxruntime")
LLAMA_8B: dict[str, Any] = {
    "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "rope_theta": 500000.0,
}  # fmt: skip
TINY: dict[str, Any] = LLAMA_8B | {
    "vocab_size": 512, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
PROFILES = ("fp32", "int8", "int4", "nf4", "fp16")
POSITIONS = 32


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "ptune-benchmark-gpu")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part is not None:
        made = {"training": training, "operators": operators}[options.part](options.work, options.tiny)
        (options.work / f"{options.part}.json").write_text(json.dumps(made))
        return 0
    options.work.mkdir(parents=True, exist_ok=True)
    found = {part: in_a_process(part, options) for part in PARTS}
    print(json.dumps(found, indent=1))
    if not options.tiny:
        write(
            "gpu", {"command": "python -m benchmarks.gpu", "parts": found, "card": card(), **host()}, PACKAGES
        )
        print(f"written to {RESULTS / 'gpu.json'}")
    return 1 if any("failed" in part for part in found.values()) else 0


def in_a_process(part: str, options: argparse.Namespace) -> dict[str, Any]:
    """What a part found, or why it found nothing."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.gpu",
        "--part",
        part,
        "--work",
        str(options.work),
        *(["--tiny"] if options.tiny else []),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S[part])
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {LIMIT_S[part]} s"}
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]}
    result: dict[str, Any] = json.loads((options.work / f"{part}.json").read_text())
    return result


def card() -> str | None:
    """The GPU's name; None where there is none."""
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None


def training(work: Path, tiny: bool) -> dict[str, Any]:
    """Predicts, then trains."""
    import torch

    from ptune.fine_tune import train
    from ptune.formats.run import Run
    from ptune.planning import predict

    on_gpu = torch.cuda.is_available()
    if not on_gpu and not tiny:
        raise SystemExit("no GPU is seen by torch: --tiny tries the script on the CPU")
    name = "tiny" if tiny else "llama8b"
    grid.MODELS[name] = ("LlamaConfig", TINY if tiny else LLAMA_8B)
    setting = grid.Setting(name, RANK, 128 if tiny else LENGTH, BATCH, True, "nf4")
    if not (work / name / "tokenizer.json").is_file():
        grid.build(work, [setting])
    recipe = grid.recipe_of(setting, work)
    recipe = recipe.model_copy(
        update={"backbone": recipe.backbone.model_copy(update={"dtype": "auto" if on_gpu else "float32"})}
    )
    grid.write_examples(recipe, setting)
    lengths = [setting.length] * BATCH
    predicted = predict(recipe, lengths, validation=[setting.length])
    if on_gpu:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, CAP_GB * 2**30 / total))
        torch.cuda.reset_peak_memory_stats()
    before = grid.high_water_bytes()
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=work) as folder:
        train(recipe, Path(folder) / "run")
        lines = Run.open(Path(folder) / "run").metrics_path.read_text(encoding="utf-8").splitlines()
    peak = torch.cuda.max_memory_allocated() if on_gpu else grid.high_water_bytes() - before
    speeds = [step["tokens_per_s"] for step in map(json.loads, lines) if "tokens_per_s" in step]
    return {
        "setting": setting._asdict(),
        "cap_gb": CAP_GB if on_gpu else None,
        "predicted_gb": predicted.peak_bytes / 2**30,
        "measured_gb": peak / 2**30,
        "error": predicted.peak_bytes / peak - 1,
        "tokens_per_s": speeds[-1] if speeds else None,
        "seconds": time.perf_counter() - begun,
    }


def operators(work: Path, tiny: bool) -> dict[str, Any]:
    """Each profile's graph on the CUDA provider, node by node."""
    import numpy as np
    import onnxruntime

    from ptune.verify.graph import PlainGraph

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
    from ptune.export.int4 import write_int4
    from ptune.export.int8 import write_int8
    from ptune.export.nf4 import write_nf4
    from ptune.export.weights import ModelWeights
    from ptune.export.write import write_bundle
    from ptune.formats.bundle import Bundle
    from ptune.publish.decoder_run import reference

    grid.MODELS["tiny"] = ("LlamaConfig", TINY)
    setting = grid.Setting("tiny", RANK, 128, BATCH, True, "nf4")
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


if __name__ == "__main__":
    raise SystemExit(main())
