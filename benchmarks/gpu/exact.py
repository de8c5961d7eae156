"""Whether a run's bytes repeat on this device: a second run, a run that pauses and goes on, and the adapter read back."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

from benchmarks.gpu.model import TINY, build
from benchmarks.gpu.training import recipe_of

STEPS, PAUSE = 6, 3


def run(work: Path, *, tiny: bool) -> dict[str, Any]:
    from ptune.config.recipe import Backbone
    from ptune.fine_tune import train

    del tiny  # it is small anyway
    build(work / "small", TINY)
    found: dict[str, Any] = {}
    for kind in ("nf4", "int8", "none"):
        recipe = recipe_of(work / "small", work, 2, 128, True, STEPS)
        if kind != "nf4":  # weights that are not packed: those of another folder
            model = _unpacked(work)
            recipe = recipe.model_copy(update={"backbone": Backbone(model=str(model), quantize=kind)})
        folders = [work / f"exact-{kind}-{name}" for name in ("once", "again", "paused")]
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        once, again = (train(recipe, folder) for folder in folders[:2])
        train(recipe, folders[2], callbacks=[lambda info: info.pause() if info.step == PAUSE else None])
        paused = train(recipe, folders[2], resume=True)
        record = once.record()
        found[kind] = {
            "repeats": _bytes_of(once.folder) == _bytes_of(again.folder),
            "resumes": _bytes_of(once.folder) == _bytes_of(paused.folder),
            "read_back": record.hops[0].max_abs_logprob,
            "attention": record.attention,
            "unrepeatable": record.unrepeatable,
        }
    return found


def _bytes_of(run: Path) -> str:
    return hashlib.sha256((run / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest()


def _unpacked(work: Path) -> Path:
    from benchmarks import plan

    plan.MODELS["plain"] = ("LlamaConfig", TINY)
    plan.build(work, [plan.Setting("plain", 16, 128, 2, True, "fp32")])
    return work / "plain"
