"""One step of four layers of 8B under torch's profiler: what takes the time, and how often the card was waited for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.gpu.training import recipe_of

SHOWN = 25
PROFILED = 4  # the step


def run(work: Path, *, tiny: bool) -> dict[str, Any]:
    import shutil

    import torch
    from torch.profiler import ProfilerActivity, profile

    from ptune.fine_tune import train

    on_gpu = torch.cuda.is_available()
    length, steps = (128, PROFILED) if tiny else (2048, PROFILED)
    recipe = recipe_of(work / "four", work, 1, length, True, steps)
    out = work / "run-profile"
    shutil.rmtree(out, ignore_errors=True)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    profiler = profile(activities=activities)

    def watch(info: Any) -> None:
        if info.step == PROFILED - 1:
            profiler.start()
        elif info.step == PROFILED:
            profiler.stop()

    train(recipe, out, callbacks=[watch])
    events = profiler.key_averages()
    order = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    total = sum(getattr(event, order) for event in events) or 1
    longest = sorted(events, key=lambda event: -getattr(event, order))[:SHOWN]
    print(events.table(sort_by=order, row_limit=60))
    return {
        "milliseconds": total / 1000,
        "shares": {event.key: round(getattr(event, order) / total, 4) for event in longest},
        "waits": sum(event.count for event in events if "Synchronize" in event.key),
        "launches": sum(event.count for event in events if "LaunchKernel" in event.key),
    }
