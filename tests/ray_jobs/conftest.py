"""A Ray cluster whose machines are processes of this one: a head that does no work, and two machines."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"


class Machines:
    """The cluster."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
        )
        self._nodes: list[Any] = []

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def add(self) -> None:
        """Adds a machine of one processor."""
        self._nodes.append(self._cluster.add_node(num_cpus=1))

    def lose(self, doing: str, ended: threading.Event | None = None) -> bool:
        """Kills a machine with all its processes: the first that has a worker with such a name, as Ray calls it. Returns False
        if `ended` was set before there was one."""
        import psutil

        while ended is None or not ended.is_set():
            for node in self._nodes:
                [raylet] = node.all_processes["raylet"]
                workers = psutil.Process(raylet.process.pid).children(recursive=True)
                if any(_title(worker).startswith(f"ray::{doing}") for worker in workers):
                    self._nodes.remove(node)
                    self._cluster.remove_node(node, allow_graceful=False)
                    for worker in workers:
                        with contextlib.suppress(psutil.NoSuchProcess):
                            worker.kill()
                    return True
            time.sleep(0.01)
        return False

    def close(self) -> None:
        self._cluster.shutdown()


def _title(process: Any) -> str:
    """The name that a process has given itself; "" if it has ended."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        return " ".join(process.cmdline())
    return ""


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    made = Machines()
    made.add()
    made.add()
    yield made
    made.close()


@pytest.fixture(scope="session")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model/ (llama) and train.jsonl with 24 conversations."""
    from support import tiny_models

    folder = tmp_path_factory.mktemp("kit")
    tiny_models.build(folder / "model", "llama")
    tiny_models.write_jsonl(folder / "train.jsonl", tiny_models.conversations(24))
    return folder


@pytest.fixture
def recipe(kit: Path, tmp_path: Path) -> Path:
    """A recipe with dropout, many steps and a checkpoint after each second one."""
    from ptune.config.recipe import Backbone, Data, Recipe, Train
    from ptune.methods.lora import Lora

    train = Train(
        lr=5e-3, batch_size=4, micro_batch_tokens=128, max_steps=40, save_every=2, validate_every=10
    )
    made = Recipe(
        name="tiny",
        backbone=Backbone(model=str(kit / "model"), dtype="float32"),
        method=Lora(r=4, alpha=8, dropout=0.1),
        data=Data(files=(kit / "train.jsonl",)),
        train=train,
    )
    made.save(tmp_path / "recipe.yaml")
    return tmp_path / "recipe.yaml"
