"""Trackers that are not among ptune's extras, each installed beside it. Needs a package registry.

PTUNE_TRACKERS names a folder in which they are kept from one run to the next.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ptune.errors import RecipeError
from ptune.formats.run import Run
from ptune.training.journal.metrics_log import read
from ptune.training.journal.trackers import tracker_of

from .conftest import Make

READ = {
    "wandb": """
import glob, json, struct
from wandb.proto import wandb_internal_pb2 as pb

def records(data, block=32768):  # LevelDB's log format, behind a head of 7 bytes
    at, whole = 7, b""
    while at + 7 <= len(data):
        if block - at % block < 7:
            at += block - at % block
            continue
        size, kind = struct.unpack_from("<HB", data, at + 4)
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # complete
            yield pb.Record.FromString(whole)
            whole = b""

(path,) = glob.glob("wandb/offline-run-*/*.wandb")
losses, config, name = [], {}, None
for record in records(open(path, "rb").read()):
    items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
    losses += [json.loads(items["loss"])] if "loss" in items else []
    for update in (*record.run.config.update, *record.config.update):
        config[update.key or "/".join(update.nested_key)] = json.loads(update.value_json)
    name = record.run.display_name or name
print(json.dumps([name, config["train.max_steps"], losses]))
""",
    "mlflow": """
import json, mlflow
client = mlflow.MlflowClient()
(run,) = client.search_runs([mlflow.get_experiment_by_name("tiny").experiment_id])
losses = [metric.value for metric in client.get_metric_history(run.info.run_id, "loss")]
print(json.dumps([run.info.run_name, int(run.data.params["train.max_steps"]), losses]))
""",
}
PACKAGES = {"wandb": ["wandb"], "mlflow": ["mlflow-skinny", "sqlalchemy", "alembic"]}


@pytest.mark.slow
@pytest.mark.parametrize("tracker", READ)
def test_it_gets_the_metrics_and_the_recipe(
    tracker: str, make: Make, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    kept = Path(os.environ.get("PTUNE_TRACKERS") or tmp_path_factory.getbasetemp()) / tracker
    install = [sys.executable, "-m", "pip", "install", "-q", "--target", str(kept), *PACKAGES[tracker]]
    if not kept.is_dir() and subprocess.run(install, capture_output=True).returncode:
        pytest.skip(f"{tracker} cannot be installed here")
    recipe = tmp_path / "recipe.yaml"
    make(tracker=tracker, max_steps=2).save(recipe)
    train = (
        "import sys\nfrom pathlib import Path\nfrom ptune.config.recipe import Recipe\n"
        "from ptune.fine_tune import train\n"
        "train(Recipe.load(Path(sys.argv[1])), Path('run'))"
    )
    where = {"WANDB_MODE": "offline", "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    paths = os.pathsep.join([*filter(None, sys.path), str(kept)])
    environment = {**os.environ, **where, "PYTHONPATH": paths}
    for code, arguments in ((train, [str(recipe)]), (READ[tracker], [])):
        ran = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert ran.returncode == 0, ran.stderr[-3000:]
    told: Any = json.loads(ran.stdout.splitlines()[-1])
    losses = [entry["loss"] for entry in read(Run(tmp_path / "run").metrics_path) if "loss" in entry]
    assert told == ["run", 2, pytest.approx(losses)]


def test_one_that_is_missing_is_named(make: Make) -> None:
    with pytest.raises(
        RecipeError, match=r"train\.tracker: clearml is not installed; run: pip install clearml"
    ):
        tracker_of(make(tracker="clearml"))
