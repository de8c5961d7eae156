"""What the doctor says about labelled data, in the command and before training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support import tiny_models

from ptune.cli import main
from ptune.config.classification import TextClassification, TokenClassification
from ptune.config.recipe import Backbone, Data, Recipe
from ptune.doctor.classification import SET_RULES, examine_labelled
from ptune.doctor.finding import Finding
from ptune.doctor.misspelt import misspelt


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.build_encoder(tmp_path_factory.mktemp("model"), "bert")


def rows(count: int, start: int = 0, **changes: Any) -> list[dict[str, Any]]:
    return [{"text": f"text {n}", "label": "ab"[n % 2], **changes} for n in range(start, start + count)]


def write(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


DEFECTS: dict[str, dict[str, Any]] = {
    "one-class": {"train": rows(12, label="a")},
    "validation-overlap": {"train": rows(12), "validation": rows(4)},
    "test-overlap": {"train": rows(12), "validation": rows(4, 50), "test": rows(4)},
    "conflicting-labels": {"train": [*rows(12), {"text": "text 0", "label": "b"}], "validation": rows(4, 50)},
    "duplicates": {"train": [*rows(12), {"text": "text 0", "label": "a"}], "validation": rows(4, 50)},
    "misspelt-labels": {
        "train": [*rows(30), {"text": "x", "label": " A"}, {"text": "y", "label": "B"}],
        "validation": rows(4, 50),
    },
    "label-imbalance": {"train": [*rows(12), *rows(120, 100, label="a")], "validation": rows(4, 50)},
    "untrained-labels": {"train": [*rows(30), {"text": "x", "label": "c"}], "validation": rows(4, 50)},
    "numbers-as-labels": {
        "train": [
            *({"text": f"text {n}", "label": f"{n / 7:.2f}"} for n in range(30)),
            {"text": "x", "label": "n/a"},
        ],
        "validation": [{"text": "text 50", "label": "0.14"}],
    },
    "over-long": {"train": rows(12, text="so " * 99), "validation": rows(4, 50)},
}

SEVERITIES = {rule.id: rule.severity for rule in SET_RULES}  # over-long is an error where the recipe says so


def found(folder: Path, model: Path, task: Any = None, **files: list[dict[str, Any]]) -> list[Finding]:
    from ptune.backbone.classifier import load_sequence_codec

    paths: dict[str, Any] = {
        split: (write(folder / f"{split}.jsonl", lines),) for split, lines in files.items()
    }
    data = Data(files=paths.pop("train"), **paths)
    codec = load_sequence_codec(Backbone(model=str(model)))
    return examine_labelled(data, task or TextClassification(max_length=64), codec, 0).findings


@pytest.mark.parametrize("rule", [rule.id for rule in SET_RULES])
def test_every_rule_finds_a_planted_defect(model: Path, tmp_path: Path, rule: str) -> None:
    findings = found(tmp_path, model, **DEFECTS[rule])
    planted = [finding for finding in findings if finding.rule == rule]
    assert planted
    assert planted[0].severity == ("warning" if rule == "over-long" else SEVERITIES[rule])
    assert planted[0].place is None or planted[0].place.file.startswith(str(tmp_path))


def test_sound_data_has_no_findings(model: Path, tmp_path: Path) -> None:
    assert found(tmp_path, model, train=rows(40), validation=rows(6, 50), test=rows(6, 70)) == []
    words = [{"tokens": ["the", f"devil{n}"], "tags": ["O", "B-X"]} for n in range(40)]
    assert found(tmp_path, model, TokenClassification(), train=words) == []


def test_numbers_are_labels_where_the_recipe_says_so_or_many_rows_share_them(
    model: Path, tmp_path: Path
) -> None:
    planted = DEFECTS["numbers-as-labels"]
    task = TextClassification(max_length=64, problem="single")
    assert "numbers-as-labels" not in {one.rule for one in found(tmp_path, model, task, **planted)}
    marks = [{"text": f"text {n}", "label": ("1.0", "2.0", "n/a")[n % 3]} for n in range(60)]
    assert found(tmp_path, model, train=marks) == []
    (finding,) = [one for one in found(tmp_path, model, **planted) if one.rule == "numbers-as-labels"]
    assert finding.where() == f"{tmp_path / 'train.jsonl'}:31"
    assert "'n/a' is no number, but 30 of 31 are" in finding.message


def test_a_number_that_is_always_the_same(model: Path, tmp_path: Path) -> None:
    numbers = [{"text": f"text {n}", "label": 1.5} for n in range(12)]
    (finding,) = found(tmp_path, model, train=numbers)
    assert (finding.rule, finding.severity) == ("one-class", "error")
    assert finding.message.startswith("1.5 is the number of every training example")
    assert found(tmp_path, model, train=[*numbers, {"text": "other", "label": 2.5}]) == []


def test_words_that_are_all_outside(model: Path, tmp_path: Path) -> None:
    words = [{"tokens": ["the", f"devil{n}"], "tags": ["O", "O"]} for n in range(40)]
    (finding,) = found(tmp_path, model, TokenClassification(), train=words)
    assert (finding.rule, finding.severity) == ("one-class", "error")
    assert finding.message.startswith("'O' is the tag of every word")


def test_all_that_is_wrong_is_told_at_once(model: Path, tmp_path: Path, capsys: Any) -> None:
    train = write(tmp_path / "train.jsonl", [*rows(40), {"text": "", "label": "a"}, *rows(3)])
    test = write(tmp_path / "test.jsonl", [*rows(4), {"text": "x", "label": "c"}])
    recipe = Recipe(
        task=TextClassification(),
        backbone=Backbone(model=str(model)),
        data=Data(files=(train,), test=(test, tmp_path / "gone.jsonl")),
    )
    recipe.save(tmp_path / "recipe.yaml")
    assert main(["doctor", str(tmp_path / "recipe.yaml"), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    kinds = [finding["rule"] for finding in told["findings"]]
    assert kinds == ["unusable-row", "unusable-row", "unusable-file", "test-overlap", "duplicates"]
    counts = told["splits"]["train"]["labels"]
    assert sum(counts.values()) == told["splits"]["train"]["examples"] == 39
    assert main(["doctor", str(tmp_path / "recipe.yaml")]) == 1
    shown = capsys.readouterr().out
    assert "text is empty" in shown
    assert "label 'c' is unknown: known are 'a', 'b'" in shown
    assert "rows with each label" in shown


def test_plan_says_that_it_knows_chat_only(model: Path, tmp_path: Path, capsys: Any) -> None:
    recipe = Recipe(task=TextClassification(), backbone=Backbone(model=str(model)))
    recipe.save(tmp_path / "recipe.yaml")
    assert main(["plan", str(tmp_path / "recipe.yaml")]) == 0
    assert "memory is predicted for chat only, not for TextClassification" in capsys.readouterr().out


def test_a_misspelling_is_named_with_its_lines_and_not_called_rare(model: Path, tmp_path: Path) -> None:
    frequent = [{"text": f"text {n}", "label": ("refund", "delivery")[n % 2]} for n in range(140)]
    wrong = [("Refund", 3), ("refnd", 1), ("tax", 1)]
    odd = [{"text": f"odd {label} {n}", "label": label} for label, times in wrong for n in range(times)]
    findings = found(tmp_path, model, train=[*frequent, *odd], validation=frequent[:4])
    told = {one.message.split("'")[1]: one for one in findings if one.rule == "misspelt-labels"}
    assert told.keys() == {"Refund", "refnd"}
    assert told["Refund"].where() == f"{tmp_path / 'train.jsonl'}:141, 142, 143"
    assert "is probably 'refund'" in told["refnd"].message
    assert "correct it" in told["refnd"].message
    (rare,) = [one for one in findings if one.rule == "untrained-labels"]
    assert "'tax' (1)" in rare.message
    assert "ef" not in rare.message.partition(":")[2].partition(":")[0]


@pytest.mark.parametrize(
    ("counts", "meant"),
    [
        ({"delivery": 40, "Delivery": 0}, {"Delivery": "delivery"}),
        ({"product question": 40, "product  question ": 2}, {"product  question ": "product question"}),
        ({"product question": 40, "product_question": 2}, {"product_question": "product question"}),
        ({"positive": 40, "negative": 2}, {}),
        ({"class 1": 40, "class 2": 2}, {}),
        ({"bad": 40, "sad": 2}, {}),
        ({"safe": 40, "unsafe": 4, "valid": 30, "invalid": 3, "legal": 30, "illegal": 2}, {}),
        ({"male": 40, "female": 2, "usual": 40, "unusual": 2, "maternal": 40, "paternal": 1}, {}),
        ({"B-LOCATION": 40, "I-LOCATION": 4}, {}),
        ({"B-LOCATION": 40, "B-LOCATOIN": 1}, {"B-LOCATOIN": "B-LOCATION"}),
        ({"refund": 6, "refunds": 4}, {}),  # too alike in number for one to be a slip
        ({"refund": 3, "refnd": 1}, {}),
    ],
)
def test_which_labels_are_meant(counts: dict[str, int], meant: dict[str, str]) -> None:
    assert misspelt(counts) == meant
