"""However a step is spread over forward passes and processes, training takes the same way."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.forked import FSDP2

from ptune.config.recipe import Backbone, Data, Recipe, Train
from ptune.errors import FormatError, RecipeError
from ptune.methods.freeze import FreezeExceptLast
from ptune.methods.full import Full
from ptune.methods.lora import Lora
from ptune.training import distributed
from ptune.training.distributed import check_launch
from ptune.training.journal.metrics_log import read

from .conftest import Make, fingerprint

Farm = Callable[..., Any]
MEASURED = ("loss", "grad_norm", "targets", "validation_loss", "validation_accuracy")
TRAIN: dict[str, Any] = {
    "backbone": {"dtype": "float32"},
    "batch_size": 5,  # odd: two processes cannot share it evenly
    "validate_every": 1,
}
DDP2 = {"processes": 2}
SHARDED = {"processes": 2, "environment": FSDP2}


def way(out: Path) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    """What was measured at each step, and the weights that it ended with."""
    measured = [
        {name: entry[name] for name in MEASURED if name in entry} for entry in read(out / "metrics.jsonl")
    ]
    newest = json.loads((out / "checkpoints" / "latest.json").read_text())["step"]
    return measured, load_file(out / "checkpoints" / f"step-{newest}" / "weights.safetensors")


def check_same_way(farm: Farm, recipe: Recipe, out: Path, expected: Path, rel: float, **request: Any) -> None:
    answer = farm(recipe, out, **request)
    assert set(answer.codes) == {0}, answer.said
    (measured, weights), (measured_alone, weights_alone) = way(out), way(expected)
    assert len(measured) == len(measured_alone)
    for here, alone in zip(measured, measured_alone, strict=True):
        assert here == pytest.approx(alone, rel=rel)
    assert weights.keys() == weights_alone.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, weights_alone[name], rtol=rel, atol=rel)
    record = json.loads((out / "run.json").read_text())
    assert (record["status"], record["hops"][0]["passed"]) == ("finished", True)
    kinds = {1: "NO", 2: "FSDP" if "environment" in request else "MULTI_CPU"}
    assert record["distributed"] == kinds[request.get("processes", 1)]


@pytest.fixture(scope="session")
def alone(farm: Farm, kit: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Recipe, bool], Path]:
    """One process, one example a forward pass: what all others are compared with."""
    folder, known = tmp_path_factory.mktemp("alone"), dict[str, Path]()

    def run(recipe: Recipe, double: bool) -> Path:
        key = f"{recipe.document()}{double}"
        if key not in known:
            out = folder / str(len(known))
            answer = farm(recipe, out, packed=False, double=double)
            assert answer.codes == [0], answer.said
            known[key] = out
        return known[key]

    return run


@pytest.mark.parametrize("request_", [{}, DDP2, SHARDED], ids=["one", "ddp", "fsdp2"])
@pytest.mark.parametrize(
    ("packed", "tokens"), [(True, 64), (False, 64), pytest.param(True, 4096, marks=pytest.mark.slow)]
)
def test_float64(
    make: Make, farm: Farm, alone: Any, tmp_path: Path, request_: Any, packed: bool, tokens: int
) -> None:
    recipe = make(**TRAIN, max_steps=3)
    changed = make(**TRAIN, max_steps=3, micro_batch_tokens=tokens)
    check_same_way(
        farm, changed, tmp_path / "out", alone(recipe, True), 1e-9, packed=packed, double=True, **request_
    )


@pytest.mark.parametrize("request_", [DDP2, SHARDED], ids=["ddp", "fsdp2"])
def test_float32(make: Make, farm: Farm, alone: Any, tmp_path: Path, request_: Any) -> None:
    recipe = make(**TRAIN, max_steps=10)
    changed = make(**TRAIN, max_steps=10, micro_batch_tokens=64)
    check_same_way(farm, changed, tmp_path / "out", alone(recipe, False), 1e-4, **request_)


@pytest.mark.parametrize("method", [Full(), pytest.param(FreezeExceptLast(layers=1), marks=pytest.mark.slow)])
def test_the_backbones_own_weights_sharded(
    make: Make, farm: Farm, alone: Any, tmp_path: Path, method: Full
) -> None:
    recipe = make(method=method, **TRAIN, max_steps=3)
    check_same_way(farm, recipe, tmp_path / "out", alone(recipe, False), 1e-4, **SHARDED)


@pytest.mark.parametrize("method", [Full(), Lora(r=4, ends=("head",))])
def test_a_process_without_an_example_of_its_own_has_gradients_of_all_weights(
    make: Make, farm: Farm, alone: Any, tmp_path: Path, method: Full | Lora
) -> None:
    """Five examples of a pass each: the second process has none for its last pass, and the head is tied to nothing."""
    recipe = make(method=method, **TRAIN, max_steps=3)
    changed = make(method=method, **TRAIN, max_steps=3, micro_batch_tokens=16)
    check_same_way(farm, changed, tmp_path / "out", alone(recipe, False), 1e-4, **DDP2)


def test_sharded_ends_with_the_best_weights_and_is_read_back(make: Make, farm: Farm, tmp_path: Path) -> None:
    recipe = make(**{**TRAIN, "lr": 0.3, "patience": 2}, epochs=9)
    answer = farm(recipe, tmp_path / "out", **SHARDED)
    assert answer.codes == [0, 0], answer.said
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["status"] == "stopped early"
    assert record["best_step"] < record["steps"]
    best = load_file(tmp_path / "out" / "checkpoints" / f"step-{record['best_step']}" / "weights.safetensors")
    saved = load_file(tmp_path / "out" / "adapter" / "adapter_model.safetensors")
    assert {name.replace(".default", ""): tensor.tolist() for name, tensor in best.items()} == {
        name: tensor.tolist() for name, tensor in saved.items()
    }


def test_sharded_goes_on_after_sigterm(make: Make, farm: Farm, tmp_path: Path) -> None:
    recipe = make(method=Lora(r=4, dropout=0.2), **TRAIN, max_steps=4)
    assert farm(recipe, tmp_path / "whole", **SHARDED).codes == [0, 0]
    broken = farm(recipe, tmp_path / "broken", stop_at=2, **SHARDED)
    assert broken.codes == [130, 130], broken.said
    assert "interrupted after step 2" in broken.said
    assert farm(recipe, tmp_path / "broken", resume=True, **SHARDED).codes == [0, 0]
    assert fingerprint(tmp_path / "broken" / "adapter") == fingerprint(tmp_path / "whole" / "adapter")


def test_other_processes_go_on_and_it_is_said(make: Make, farm: Farm, tmp_path: Path) -> None:
    recipe, out = make(**TRAIN, max_steps=4), tmp_path / "out"
    assert farm(recipe, out, stop_at=2, **SHARDED).codes == [130, 130]
    alone = farm(recipe, out, resume=True)
    assert alone.codes == [0], alone.said
    assert "resuming, but not to the same bits: processes 2 → 1, parallelism FSDP → NO\n" in alone.said
    assert json.loads((out / "run.json").read_text())["changes"] == [
        "processes 2 → 1",
        "parallelism FSDP → NO",
    ]
    assert [entry["step"] for entry in read(out / "metrics.jsonl") if "loss" in entry] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DeepSpeed"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "Megatron-LM"),
        ({"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, "parallelism_config"),
        ({"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, "dynamo_backend INDUCTOR"),
        ({"ACCELERATE_USE_FSDP": "true"}, "fsdp_version: 2"),
        ({**FSDP2, "FSDP_OFFLOAD_PARAMS": "true"}, "fsdp_offload_params"),
        ({**FSDP2, "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}, "fsdp_cpu_ram_efficient_loading"),
        ({**FSDP2, "FSDP_ACTIVATION_CHECKPOINTING": "true"}, "train.gradient_checkpointing"),
        ({**FSDP2, "FSDP_IGNORED_MODULES": "lm_head"}, "fsdp_ignored_modules"),
    ],
)
def test_what_accelerate_is_asked_for_in_vain_is_refused(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], said: str
) -> None:
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(RecipeError, match=r"does not support: .*recipes/accelerate") as caught:
        check_launch(Recipe())
    assert said in str(caught.value)


def test_quantised_weights_and_new_tokens_are_not_sharded(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in FSDP2.items():
        monkeypatch.setenv(variable, value)
    check_launch(Recipe())
    with pytest.raises(RecipeError, match=r"FSDP with backbone\.quantize nf4: use ddp\.yaml"):
        check_launch(Recipe(backbone=Backbone(quantize="nf4")))
    with pytest.raises(RecipeError, match=r"FSDP with backbone\.new_tokens: use ddp\.yaml"):
        check_launch(Recipe(backbone=Backbone(new_tokens=("<think>",))))


@pytest.fixture
def four_processes() -> Any:
    class FourProcesses:
        num_processes = 4
        device = torch.device("cpu")

    return FourProcesses()


def test_more_processes_than_examples_a_step_is_refused(four_processes: Any) -> None:
    from ptune.training.preparation import resolved

    with pytest.raises(RecipeError, match="batch_size is 3"):
        resolved(Recipe(train=Train(batch_size=3)), four_processes)


def test_processes_that_would_go_on_from_different_steps_are_stopped(
    monkeypatch: pytest.MonkeyPatch, four_processes: Any
) -> None:
    monkeypatch.setattr(distributed, "gather_object", lambda own: [own[0], own[0], 3, own[0]])
    check_same_step = distributed.check_same_step
    check_same_step(four_processes, 3)
    with pytest.raises(FormatError, match="steps 2, 2, 3, 2"):
        check_same_step(four_processes, 2)


def test_bad_data_stops_every_process(make: Make, farm: Farm, tmp_path: Path) -> None:
    """One process examines for all: the others must not wait for it for ever."""
    recipe = make(max_steps=2)
    (tmp_path / "bad.jsonl").write_text('{"messages": []}\n' * 3)
    recipe = recipe.model_copy(update={"data": Data(files=(tmp_path / "bad.jsonl",))})
    answer = farm(recipe, tmp_path / "run", processes=2)
    assert answer.codes == [1, 1], answer.said
    assert "bad.jsonl" in answer.said
