"""recipes/accelerate/*.yaml: accelerate reads each; those that a machine without a GPU can launch are launched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file

from .conftest import Make

FOLDER = Path(__file__).parents[2] / "recipes" / "accelerate"
FILES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
SCRIPT = (
    "from ptune.config.recipe import Recipe\nfrom ptune.cli import run_recipe\nfrom pathlib import Path\n"
)


def launch(name: str, script: Path, *options: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        str(FOLDER / f"{name}.yaml"),
    ]
    return subprocess.Popen(
        [*command, *options, str(script), "--out", str(script.with_name("run"))],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def script(make: Make, tmp_path: Path) -> Path:
    """A recipe file as users launch them."""
    make(max_steps=2, backbone={"dtype": "float32"}).save(tmp_path / "recipe.yaml")
    path = tmp_path / "recipe.py"
    path.write_text(
        f"{SCRIPT}raise SystemExit(run_recipe(Recipe.load(Path({str(tmp_path / 'recipe.yaml')!r}))))\n"
    )
    return path


def record(script: Path) -> dict[str, object]:
    written = json.loads((script.with_name("run") / "run.json").read_text())
    assert (written["status"], written["hops"][0]["passed"]) == ("finished", True)
    return written


def test_there_is_one_for_each_use() -> None:
    assert FILES == ["cpu", "ddp", "deepspeed_zero3", "fsdp2", "multi_node", "one_gpu"]


@pytest.mark.parametrize("name", FILES)
def test_accelerate_reads_it(name: str) -> None:
    config = load_config_from_file(str(FOLDER / f"{name}.yaml"))
    assert isinstance(config, ClusterConfig)
    assert config.mixed_precision == "no"  # the recipe decides
    if name == "fsdp2":
        assert config.fsdp_config["fsdp_version"] == 2
    if name == "deepspeed_zero3":
        assert config.deepspeed_config["zero_stage"] == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "processes", "distributed"),
    [("cpu", 2, "MULTI_CPU"), ("one_gpu", 1, "NO"), ("ddp", 2, "MULTI_CPU"), ("fsdp2", 2, "FSDP")],
)
def test_it_is_launched_on_cpus(script: Path, name: str, processes: int, distributed: str) -> None:
    process = launch(name, script)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    written = record(script)
    assert (written["processes"], written["distributed"]) == (processes, distributed)


@pytest.mark.slow
def test_two_launchers_are_two_machines(script: Path) -> None:
    """As on two machines, but both here: one process each, on CPUs."""
    options = ["--main_process_ip", "127.0.0.1", "--main_process_port", "29517", "--num_processes", "2"]
    both = [launch("multi_node", script, *options, "--machine_rank", str(rank)) for rank in range(2)]
    said = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert (record(script)["processes"], record(script)["distributed"]) == (2, "MULTI_CPU")
