"""The process that has a run's model for the tab Judge: one at a time, ended when idle, stopped, bounded, and never silent."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from support.fake_chat_model import wait_until

from ptune.errors import UsageError
from ptune.evaluation.asking.question import Question
from ptune.studio.jobs.processes import NICE
from ptune.studio.judge import loaded_model
from ptune.studio.judge.loaded_model import LoadedModel, NoAnswerError
from ptune.studio.workspace import Workspace

ECHO = """
import json, os, sys, time
print("a word of a library")
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    text = json.loads(line)["text"]
    if text == "slow":
        time.sleep(600)
    if text == "die":
        sys.exit("error: there is no memory left")
    for side in ("base", "tuned"):
        print(json.dumps({"side": side, "text": f"{text} {os.getpid()}"}), flush=True)
    if text == "leave":  # answers, and takes the next question, but is idle for too long before it reads it
        print(json.dumps({"done": True}), flush=True)
        sys.stdin.readline()
        sys.exit(0)
    print(json.dumps({"problem": "no"} if text == "bad" else {"done": True}), flush=True)
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path / "studio")
    for name in ("one", "two"):
        workspace.run(name).mkdir()
        (workspace.run(name) / "run.json").write_text("{}")
    return workspace


@pytest.fixture
def model(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> LoadedModel:
    """A process that echoes stands for the one that loads torch."""
    monkeypatch.setattr(loaded_model, "module_command", lambda *_: [sys.executable, "-c", ECHO])
    return LoadedModel(workspace)


def said(model: LoadedModel, name: str, text: str, **bounds: Any) -> list[str]:
    with model.asked(name, Question(text, **bounds)) as lines:
        return [line["text"] for line in lines if "side" in line]


def test_one_process_answers_until_another_run_is_asked(workspace: Workspace, model: LoadedModel) -> None:
    first = said(model, "one", "a")
    process = model.process
    assert process is not None
    assert first == [f"a {process}", f"a {process}"]
    assert os.getpriority(os.PRIO_PROCESS, process) == min(19, os.getpriority(os.PRIO_PROCESS, 0) + NICE)
    assert said(model, "one", "b") == [f"b {process}"] * 2, "it is still loaded"
    assert said(model, "two", "b") != [f"b {process}"] * 2
    other = model.process
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    os.utime(workspace.run("two") / "run.json", (1, 1))
    said(model, "two", "c")
    assert model.process != other, "the run was trained anew"
    model.stop()


def test_a_second_question_waits_for_the_first_and_stop_ends_it(model: LoadedModel) -> None:
    said(model, "one", "a")
    told: list[str] = []

    def answer() -> None:
        try:
            said(model, "one", "slow")
        except NoAnswerError as error:
            told.append(str(error))

    thread = threading.Thread(target=answer)
    thread.start()
    wait_until(lambda: model.busy)
    with pytest.raises(UsageError, match="another question is being answered"):
        said(model, "one", "b")
    model.stop()
    thread.join(timeout=30)
    assert told == ["stopped before it had answered: the next question loads the model again"]
    assert len(said(model, "one", "c")) == 2
    model.stop()


@pytest.mark.parametrize("loaded", ["", "one", "two"])
def test_stop_ends_a_question_whose_process_is_not_there_yet(model: LoadedModel, loaded: str) -> None:
    if loaded:
        said(model, loaded, "a")
    with model.asked("one", Question("b")) as lines:
        model.stop()
        with pytest.raises(NoAnswerError, match="stopped before it had answered"):
            list(lines)
    assert len(said(model, "one", "c")) == 2
    model.stop()


def test_no_answer_in_time_ends_the_process(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    said(model, "one", "a")
    monkeypatch.setattr(loaded_model, "SPARE_S", 0.0)
    with pytest.raises(NoAnswerError, match="stopped before"):
        said(model, "one", "slow", max_s=0.1)
    assert model.process is None


def test_what_goes_wrong_is_told(model: LoadedModel) -> None:
    with pytest.raises(NoAnswerError, match=r"^no$"):
        said(model, "one", "bad")
    with pytest.raises(NoAnswerError, match=r"^there is no memory left$"):
        said(model, "one", "die")
    with pytest.raises(UsageError, match="no run none"):
        said(model, "none", "a")
    with pytest.raises(UsageError, match="cannot be a name"):
        said(model, "../up", "a")
    assert len(said(model, "one", "a")) == 2, "the next question begins anew"
    model.stop()


def test_an_answer_that_nobody_reads_is_not_the_next_one(model: LoadedModel) -> None:
    with model.asked("one", Question("left")) as half:
        next(half)
    assert {text.split()[0] for text in said(model, "one", "new")} == {"new"}
    model.stop()


def test_a_process_that_has_just_ended_idle_is_begun_again(model: LoadedModel) -> None:
    assert len(said(model, "one", "leave")) == 2
    before = model.process
    assert len(said(model, "one", "a")) == 2
    assert model.process != before
    model.stop()
