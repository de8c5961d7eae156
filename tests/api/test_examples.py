"""Every block of docs/python.md and every cell of the notebooks runs, offline, on tiny models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import cells, tiny_models

import ptune

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "chat": str(tiny_models.build(folder / "llama", "llama")),
        "encoder": str(tiny_models.build_encoder(folder / "bert", "bert")),
    }


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_quickstart(models: dict[str, str], here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = cells.run(
        cells.of_notebook(ROOT / "examples" / "quickstart.ipynb"), {"MODEL": models["chat"], "STEPS": 3}
    )
    assert names["run"].record().status == "finished"
    assert len(names["losses"]) == 3
    assert names["bundle"].proof.passed
    assert "tuned: " in capsys.readouterr().out


def test_the_classifier(models: dict[str, str], here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ptune.publish.refuse_no_better", lambda run: None)  # three steps of a random model
    names = cells.run(
        cells.of_notebook(ROOT / "examples" / "classification.ipynb"),
        {"MODEL": models["encoder"], "STEPS": 3},
    )
    assert 0 <= names["evaluation"].figures["accuracy"] <= 1
    assert names["answer"].label in ("positive", "neutral", "negative")
    assert repr(names["evaluation"]).startswith("Evaluation(200 rows of test: accuracy")


def test_the_documentation(models: dict[str, str], here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = cells.run(
        cells.of_document(ROOT / "docs" / "python.md"),
        {"MODEL": models["chat"], "ENCODER": models["encoder"]},
    )
    said = capsys.readouterr().out
    assert "Run('runs/paused', interrupted, 2 steps)" in said
    assert "Run('runs/paused', finished, 4 steps)" in said
    assert len(names["answers"]) == 3
    assert names["vectors"].shape == (2, 64)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_without_outputs(path: Path) -> None:
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_the_documentation_names_everything_there_is() -> None:
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    left_out = {"__version__", "Model", "StructuredOutput", "New", "Title", "Plan", "Evaluate", "Data"}
    for name in {*ptune.__all__} - left_out:
        assert f"{name}" in text, name
