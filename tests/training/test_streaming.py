"""A model whose layers are read when they run trains to the bytes of one in memory."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support import own_memory, tiny_models

from ptune.errors import RecipeError
from ptune.evaluation.evaluate import evaluate
from ptune.fine_tune import train
from ptune.methods.lora import Lora
from ptune.training.distributed import check_launch
from ptune.training.journal.metrics_log import read
from ptune.training.preparation import resolved

from .conftest import Make, fingerprint, interrupt


@pytest.fixture
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model of five layers."""
    family = getattr(request, "param", "llama")
    return tiny_models.build(tmp_path / family, family, num_hidden_layers=5)


# gemma2, whose head is its embedding and whose layers are of two kinds, is read as it is by day, and rounded with the long forms.
@pytest.mark.parametrize(
    ("base", "quantize"),
    [
        ("llama", "none"),
        ("llama", "nf4"),
        ("llama", "int8"),
        ("gemma2", "none"),
        pytest.param("gemma2", "nf4", marks=pytest.mark.slow),
        pytest.param("gemma2", "int8", marks=pytest.mark.slow),
    ],
    indirect=["base"],
)
def test_the_bytes_are_those_of_a_model_in_memory(
    make: Make, tmp_path: Path, base: Path, quantize: str
) -> None:
    runs = []
    for stream in (False, True):
        spec = {"model": str(base), "quantize": quantize, "stream": stream}
        recipe = make(backbone=spec, max_steps=6, validate_every=2, gradient_checkpointing=True)
        runs.append(train(recipe, tmp_path / f"{stream}"))
    resident, streamed = runs
    assert fingerprint(streamed.adapter_path) == fingerprint(resident.adapter_path)
    for name in ("loss", "grad_norm", "validation_loss"):
        series = [[e[name] for e in read(run.metrics_path) if name in e] for run in runs]
        assert series[0] == series[1]
    assert streamed.record().base == resident.record().base
    assert streamed.record().hops == resident.record().hops


BOTH = pytest.mark.parametrize(
    "base", ["llama", pytest.param("gemma2", marks=pytest.mark.slow)], indirect=True
)


@BOTH
def test_interrupted_and_resumed_is_uninterrupted(
    make: Make, tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(monkeypatch, 3)
    monkeypatch.setenv("PTUNE_CACHE", str(tmp_path / "cache"))
    recipe = make(
        method=Lora(r=4, dropout=0.2),
        backbone={"model": str(base), "quantize": "nf4", "stream": True},
        max_steps=6, dropout=0.1, gradient_checkpointing=True,
    )  # fmt: skip
    broken = train(recipe, tmp_path / "broken")
    assert (broken.record().status, broken.record().steps) == ("interrupted", 3)
    resumed = train(recipe, tmp_path / "broken", resume=True)
    whole = train(recipe, tmp_path / "whole")
    assert fingerprint(resumed.adapter_path) == fingerprint(whole.adapter_path)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.stat().st_size > 10**5]


@BOTH
def test_a_streamed_run_is_evaluated(make: Make, tmp_path: Path, base: Path) -> None:
    figures = []
    for stream in (False, True):
        spec = {"model": str(base), "stream": stream}
        run = train(make(backbone=spec, max_steps=2, gradient_checkpointing=True), tmp_path / f"{stream}")
        figures.append(evaluate(run))
    for when in ("before", "after", "answers"):
        assert figures[0][when] == figures[1][when]


def test_a_streamed_model_is_trained_by_one_process(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = make(backbone={"stream": True}, gradient_checkpointing=True)
    two: Any = SimpleNamespace(num_processes=2, device=torch.device("cpu"))
    with pytest.raises(RecipeError, match=r"backbone\.stream is for one process"):
        resolved(recipe, two)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    with pytest.raises(RecipeError, match=r"FSDP with backbone\.stream"):
        check_launch(recipe)


# After it has trained a smaller model. Both without a plan, which is made of shapes alone and takes twice as long as the rest.
TRAIN = """
from ptune.config.recipe import Recipe
from ptune.fine_tune import train
from ptune.tasks.chat import work

work.planned = lambda recipe, *_: (recipe, None)
small, large = map(Recipe.load, map(Path, sys.argv[1:3]))
train(small, Path(sys.argv[3]) / "small")
with measured():
    train(large, Path(sys.argv[3]) / "large")
"""

HIDDEN = 1024
LAYER = 7 * HIDDEN**2  # weights of a layer


@pytest.mark.parametrize(("quantize", "bytes_a_weight", "layers"), [("none", 4, 12), ("nf4", 0.52, 24)])
def test_memory_holds_two_layers(
    make: Make, tmp_path: Path, quantize: str, bytes_a_weight: float, layers: int
) -> None:
    size = {"hidden_size": HIDDEN, "intermediate_size": HIDDEN, "num_key_value_heads": 4}
    large = tiny_models.build(tmp_path / "large", "llama", **size, num_hidden_layers=layers)
    small = tiny_models.build(tmp_path / "small", "llama")
    recipes: list[Path] = []
    for folder in (small, large):
        spec = {"model": str(folder), "quantize": quantize, "stream": True}
        recipe = make(
            backbone=spec, max_steps=2, batch_size=2, micro_batch_tokens=64, gradient_checkpointing=True,
            rollbacks=0, optimizer="adafactor",
        )  # fmt: skip
        recipes.append(folder.with_suffix(".yaml"))
        recipe.save(recipes[-1])
    gained = own_memory.gained(TRAIN, *recipes, tmp_path / "runs", PTUNE_CACHE=str(tmp_path / "cache"))
    layer = bytes_a_weight * LAYER
    adapter = 4 * 7 * 2 * HIDDEN * 4 * layers  # bytes at rank 4
    # Embedding and head have some hundred tokens. Ten weights in float32: what packing one takes, and what is unpacked.
    assert gained < 2 * layer + 4 * adapter + 10 * 4 * HIDDEN**2 + 16 * 2**20
    assert gained < layers * layer / (1.2 if quantize == "nf4" else 3)
