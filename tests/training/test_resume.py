"""A run that was stopped goes on to the very bytes that it would have reached, or says why it cannot."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import tiny_models
from support.fake_chat_model import wait_until

from ptune.config.recipe import Plan, Recipe
from ptune.errors import BackboneError, DataError, FormatError, PtuneError, RecipeError
from ptune.fine_tune import train
from ptune.formats import whole_write
from ptune.formats.run import Run
from ptune.methods.freeze import FreezeExceptLast
from ptune.methods.lora import Lora
from ptune.tasks.chat import work
from ptune.training.folder import locked
from ptune.training.guards import spike_protection
from ptune.training.journal.metrics_log import read

from .conftest import Make, fingerprint, refused


@pytest.mark.parametrize("method", [Lora(r=4, dropout=0.2), FreezeExceptLast(layers=1)])
def test_interrupted_and_resumed_is_uninterrupted(
    make: Make, tmp_path: Path, method: Lora, interrupt_at: None, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = make(method=method, dropout=0.1, epochs=2, weight_decay=0.1)
    broken = train(recipe, tmp_path / "broken", command="ptune train tiny.py")
    assert (broken.record().status, broken.record().steps) == ("interrupted", 3)
    assert "ptune train tiny.py --resume" in capsys.readouterr().err
    with (broken.metrics_path).open("a") as file:
        file.write(
            '{"step": 4, "loss": 99.0}\n{"step": 5, "lo'
        )  # as if killed after step 4 and its last checkpoint
    resumed = train(recipe, tmp_path / "broken", resume=True)
    assert resumed.record().status == "finished"
    whole = train(recipe, tmp_path / "whole")
    for folder in ("adapter_path", "model_path"):
        if getattr(whole, folder).is_dir():
            assert fingerprint(getattr(resumed, folder)) == fingerprint(getattr(whole, folder))
    for name in ("loss", "lr", "grad_norm", "validation_loss"):
        series = [[e[name] for e in read(run.metrics_path) if name in e] for run in (resumed, whole)]
        assert series[0] == series[1]


def test_short_rows_first_and_resumed(make: Make, tmp_path: Path, interrupt_at: None) -> None:
    recipe = make(order="short_first", epochs=2, batch_size=4)
    assert train(recipe, tmp_path / "broken").record().steps == 3
    resumed = train(recipe, tmp_path / "broken", resume=True)
    whole = train(recipe, tmp_path / "whole")
    assert fingerprint(resumed.adapter_path) == fingerprint(whole.adapter_path)
    targets = [entry["targets"] for entry in read(whole.metrics_path) if "targets" in entry]
    first_pass = targets[: len(targets) // 2]
    assert sum(first_pass[-2:]) > sum(first_pass[:2])


@pytest.mark.parametrize("interrupt_at", [31], indirect=True)
def test_spikes_are_cut_as_if_nothing_had_happened(
    make: Make, tmp_path: Path, interrupt_at: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spike_protection, "_Z", 0.3)  # so that there are many
    recipe = make(max_steps=42, validate_every=14, lr=2e-2, batch_size=1, max_grad_norm=0)
    assert train(recipe, tmp_path / "broken").record().steps == 31
    runs = [train(recipe, tmp_path / "broken", resume=True), train(recipe, tmp_path / "whole")]
    cuts = [
        {e["step"]: e["spike_cut_to"] for e in read(run.metrics_path) if "spike_cut_to" in e} for run in runs
    ]
    assert cuts[0] == cuts[1]
    assert any(step > 31 for step in cuts[0])
    states = [json.loads((run.checkpoints_path / "step-42" / "state.json").read_text()) for run in runs]
    assert states[0]["norms"] == states[1]["norms"]
    assert states[0]["norms"]["steps"] == 42
    assert fingerprint(runs[0].adapter_path) == fingerprint(runs[1].adapter_path)


def test_resume_goes_back_over_a_damaged_checkpoint(make: Make, tmp_path: Path, interrupt_at: None) -> None:
    recipe = make(epochs=2, validate_every=1)
    broken = train(recipe, tmp_path / "broken")
    weights = broken.checkpoints_path / "step-3" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    resumed = train(recipe, tmp_path / "broken", resume=True)
    whole = train(recipe, tmp_path / "whole")
    assert fingerprint(resumed.adapter_path) == fingerprint(whole.adapter_path)


def test_resume_of_what_never_started_and_of_what_is_finished(make: Make, tmp_path: Path) -> None:
    run = train(make(), tmp_path / "run", resume=True)
    before = fingerprint(run.adapter_path)
    written = run.record()
    assert train(make(), tmp_path / "run", resume=True).record() == written
    assert fingerprint(run.adapter_path) == before


def test_ctrl_c_leaves_a_run_that_can_be_resumed(make: Make, tmp_path: Path) -> None:
    make(max_steps=100_000, validate_every=100_000).save(tmp_path / "recipe.yaml")
    command = [
        sys.executable,
        "-m",
        "ptune",
        "train",
        str(tmp_path / "recipe.yaml"),
        "--out",
        str(tmp_path / "run"),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "run" / "metrics.jsonl"
    wait_until(lambda: metrics.is_file() or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "--resume" in errors.splitlines()[-1]
    record = Run.open(tmp_path / "run").record()
    assert record.status == "interrupted"
    assert (tmp_path / "run" / "checkpoints" / f"step-{record.steps}" / "state.json").is_file()


def test_resume_with_another_recipe_data_or_base_is_refused(
    make: Make, kit: Path, tmp_path: Path, interrupt_at: None
) -> None:
    data = tiny_models.write_jsonl(tmp_path / "train.jsonl", tiny_models.conversations(24))
    base = tiny_models.build(tmp_path / "model", "llama")
    recipe = make(backbone={"model": str(base)})
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"files": (data,)})})
    out = tmp_path / "run"
    train(recipe, out)
    faster = recipe.model_copy(update={"train": recipe.train.model_copy(update={"lr": 1.0})})
    assert "train.lr" in refused(RecipeError, faster, out, resume=True)
    tiny_models.write_jsonl(data, tiny_models.conversations(23))
    assert f"restore the contents of {data}, or" in refused(DataError, recipe, out, resume=True)
    tiny_models.write_jsonl(data, tiny_models.conversations(24))
    tiny_models.build(base, "llama", seed=1)
    assert str(base) in refused(BackboneError, recipe, out, resume=True)
    tiny_models.build(base, "llama")
    assert train(recipe, out, resume=True).record().status == "finished"


def altered(out: Path, **changes: Any) -> None:
    """run.json, as another machine would have written it."""
    record = json.loads((out / "run.json").read_text())
    for name, value in changes.items():
        record[name] = {**record[name], **value} if isinstance(value, dict) else value
    (out / "run.json").write_text(json.dumps(record))


def test_it_goes_on_with_the_threads_that_it_began_with(
    make: Make, farm: Callable[..., Any], tmp_path: Path
) -> None:
    recipe, out = make(max_steps=2, backbone={"dtype": "float32"}), tmp_path / "run"
    assert farm(recipe, out, stop_at=1).codes == [130]
    altered(out, threads=2)
    resumed = farm(recipe, out, resume=True)
    assert resumed.codes == [0], resumed.said
    assert "resuming with 2 threads, as the run began (this machine would use 1)" in resumed.said
    assert "not to the same bits" not in resumed.said
    assert (Run.open(out).record().threads, Run.open(out).record().changes) == (2, ())


def test_what_cannot_be_as_it_was_is_said_and_recorded(
    make: Make, tmp_path: Path, interrupt_at: None, capsys: pytest.CaptureFixture[str]
) -> None:
    out = train(make(), tmp_path / "run").folder
    here = Run.open(out).record()
    altered(out, versions={"torch": "2.1.0", "safetensors": "0.1", "python": "3.0"}, instruction_set="NEON")
    record = train(make(), out, resume=True).record()
    changes = (f"torch 2.1.0 → {here.versions['torch']}", f"instruction set NEON → {here.instruction_set}")
    assert f"resuming, but not to the same bits: {', '.join(changes)}\n" in capsys.readouterr().err
    assert (record.changes, record.created, record.status) == (changes, here.created, "finished")


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "step-4", "latest.json", "adapter", "README.md", "run.json"]
)
def test_a_full_disk_is_one_sentence_and_the_run_goes_on_when_there_is_room(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    recipe, out, calls = make(max_steps=6, save_every=2), tmp_path / "run", [0]
    sync, opened = whole_write.sync, Path.open

    def full(path: Path) -> None:
        parts = path.relative_to(out).parts if path.is_relative_to(out) else ()
        if any(part.strip(".").startswith(name) for part in parts[: 2 if "checkpoints" in parts else 1]):
            calls[0] += 1
            if name != "run.json" or calls[0] > 1:  # the first one makes the folder a run
                raise OSError(errno.ENOSPC, "No space left on device")
        sync(path)

    def full_to_append(self: Path, mode: str = "r", *more: Any, **options: Any) -> Any:
        calls[0] += mode == "a"
        if mode == "a" and calls[0] > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened(self, mode, *more, **options)

    if name == "metrics.jsonl":
        monkeypatch.setattr(Path, "open", full_to_append)
    else:
        monkeypatch.setattr(whole_write, "sync", full)
    said = refused(PtuneError, recipe, out)
    assert said.startswith("the disk is full: could not write")
    assert name in said
    monkeypatch.undo()
    resumed = train(recipe, out, resume=True)
    assert resumed.record().status == "finished"
    assert fingerprint(resumed.adapter_path) == fingerprint(train(recipe, tmp_path / "whole").adapter_path)


def test_a_schedulers_sigterm_leaves_a_run_that_can_be_resumed(
    make: Make, farm: Callable[..., Any], tmp_path: Path
) -> None:
    recipe, out = make(max_steps=4, backbone={"dtype": "float32"}), tmp_path / "run"
    broken = farm(recipe, out, stop_at=2)
    assert broken.codes == [130], broken.said
    assert "interrupted after step 2" in broken.said
    assert farm(recipe, out, resume=True).codes == [0]
    assert farm(recipe, tmp_path / "whole").codes == [0]
    assert fingerprint(out / "adapter") == fingerprint(tmp_path / "whole" / "adapter")


def test_another_template_is_another_training(make: Make, tmp_path: Path, interrupt_at: None) -> None:
    template = tmp_path / "template.jinja"
    template.write_text(tiny_models.CHATML, encoding="utf-8")
    recipe = make(epochs=2)
    recipe = recipe.model_copy(update={"task": recipe.task.model_copy(update={"template": template})})
    run = train(recipe, tmp_path / "run")
    before = run.data_path.read_bytes()
    template.write_text(tiny_models.CHATML.replace("\n", "\n\n"), encoding="utf-8")
    said = refused(DataError, recipe, tmp_path / "run", resume=True)
    assert "template" in said
    assert "train" in said
    assert run.data_path.read_bytes() == before


def test_a_resume_may_be_planned_for_another_machine(make: Make, tmp_path: Path, interrupt_at: None) -> None:
    train(make(epochs=2), tmp_path / "run")
    bigger = make(epochs=2).model_copy(update={"plan": Plan(memory="64GB")})
    assert train(bigger, tmp_path / "run", resume=True).record().status == "finished"


def test_a_plan_that_changed_the_recipe_holds_when_it_goes_on(
    make: Make, tmp_path: Path, interrupt_at: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def smaller(recipe: Recipe, *_: object) -> tuple[Recipe, None]:
        train_spec = recipe.train.model_copy(update={"micro_batch_tokens": 64})
        return recipe.model_copy(update={"train": train_spec}), None

    recipe = make(epochs=2).model_copy(update={"plan": Plan(auto=True)})
    monkeypatch.setattr(work, "planned", smaller)
    run = train(recipe, tmp_path / "run")
    assert Recipe.load(run.recipe_path).train.micro_batch_tokens == 64
    assert train(recipe, tmp_path / "run", resume=True).record().status == "finished"


def test_one_folder_is_trained_by_one_process(make: Make, tmp_path: Path) -> None:
    with locked(Run(tmp_path / "run")):
        assert "another process" in refused(FormatError, make(), tmp_path / "run")
    assert train(make(max_steps=1), tmp_path / "run").record().status == "finished"
