"""QLoRA of the 8B-shaped model on up to 24 GB of the card, beside what `ptune plan` says."""

from __future__ import annotations

import json
import shutil
import statistics
from pathlib import Path
from typing import Any

from benchmarks import plan
from benchmarks.sides import peak_bytes

CAP_BYTES = 24 * 2**30
STEPS, TIMED = 12, 8  # the last ones are timed
RANK = 16


def recipe_of(model: Path, work: Path, batch: int, length: int, checkpointing: bool, steps: int) -> Any:
    """The recipe, whose data files are written."""
    from ptune.config.chat import Chat
    from ptune.config.recipe import Backbone, Data, Recipe, Train
    from ptune.methods.lora import Lora

    setting = plan.Setting(model.name, RANK, length, batch, checkpointing, "nf4")
    recipe = Recipe(
        name=setting.name,
        task=Chat(max_length=length),
        backbone=Backbone(model=str(model), quantize="nf4"),
        method=Lora(r=RANK),
        data=Data(files=(work / f"{setting.name}.jsonl",), validation=(work / f"{setting.name}.val.jsonl",)),
        train=Train(
            max_steps=steps, batch_size=batch, micro_batch_tokens=batch * length, validate_every=steps,
            gradient_checkpointing=checkpointing,
        ),
    )  # fmt: skip
    plan.write_examples(recipe, setting)
    return recipe


def run(work: Path, batch: int, length: int, checkpointing: bool, *, tiny: bool) -> dict[str, Any]:
    """Predicts, then trains."""
    import torch

    from ptune.fine_tune import train
    from ptune.planning import predict

    on_gpu = torch.cuda.is_available()
    if not on_gpu and not tiny:
        raise SystemExit("torch sees no GPU: --tiny tries this on the CPU")
    length, steps = (128, 3) if tiny else (length, STEPS)
    recipe = recipe_of(work / "8b", work, batch, length, checkpointing, steps)
    predicted = predict(recipe, [length] * batch, validation=[length])
    if on_gpu:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, CAP_BYTES / total))
    out = work / f"run-{recipe.name}"
    shutil.rmtree(out, ignore_errors=True)
    finished = train(recipe, out)
    lines = [json.loads(line) for line in finished.metrics_path.read_text(encoding="utf-8").splitlines()]
    speeds = [line["tokens_per_s"] for line in lines if "tokens_per_s" in line]
    allocated = torch.cuda.max_memory_allocated() if on_gpu else None
    record = finished.record()
    return {
        "batch": batch,
        "length": length,
        "checkpointing": checkpointing,
        "planned_bytes": predicted.peak_bytes,
        "allocated_bytes": allocated,
        "reserved_bytes": torch.cuda.max_memory_reserved() if on_gpu else None,
        "main_memory_bytes": peak_bytes(),
        "plan_error": None if allocated is None else predicted.peak_bytes / allocated - 1,
        "tokens_per_s": statistics.median(speeds[-TIMED:]),
        "attention": record.attention,
        "unrepeatable": record.unrepeatable,
        "losses": [line["loss"] for line in lines if "loss" in line],
    }
