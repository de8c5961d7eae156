"""Two processes train what one does: each sees the passages of the whole batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.retrieval_runs import recipe

from ptune.formats.run import Run
from ptune.training.journal.metrics_log import read


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path: Path) -> None:
    recipe(dropout=0.0, max_steps=3, micro_batch_tokens=64).save(tmp_path / "recipe.yaml")
    script = tmp_path / "recipe.py"
    script.write_text(
        "from pathlib import Path\nfrom ptune.cli import run_recipe\nfrom ptune.config.recipe import Recipe\n"
        f"raise SystemExit(run_recipe(Recipe.load(Path({str(tmp_path / 'recipe.yaml')!r}))))\n"
    )
    losses = []
    for processes in (1, 2):
        out = tmp_path / str(processes)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc_per_node", str(processes), str(script), "--out", str(out)]
        environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
        assert done.returncode == 0, done.stderr
        record = Run(out).record()
        assert (record.processes, record.hops[0].passed) == (processes, True)
        entries = read(Run(out).metrics_path)
        keys = ("loss", "grad_norm", "validation_loss", "validation_accuracy")
        losses.append([entry[key] for entry in entries for key in keys if key in entry])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
