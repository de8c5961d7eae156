"""Figures of translation are sacrebleu's; torch and the bundle say the same."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sacrebleu
from sacrebleu.metrics import CHRF
from sacrebleu.significance import PairedTest
from support.translation_runs import NAME, bundle, kit, merged, run

from ptune.cli import main
from ptune.config.recipe import Recipe
from ptune.errors import FormatError, UsageError
from ptune.evaluation.compare import compare
from ptune.evaluation.evaluate import models_of
from ptune.evaluation.held_out import held_out
from ptune.evaluation.options import EvaluationOptions
from ptune.evaluation.require import parsed
from ptune.evaluation.translation.evaluate import evaluate_run
from ptune.evaluation.translation.figures import COPY
from ptune.evaluation.translation.scores import gain, measure, of_rows, statistic
from ptune.tasks.chat.answers import answers

GOLD = [f"El archivo número {n} está abierto en la ventana {n * 7 % 5}." for n in range(60)]
GOOD = [text.replace("abierto", "abierta") if n % 3 else text for n, text in enumerate(GOLD)]
BAD = [" ".join(text.split()[::2]) for text in GOLD]


def test_corpus_figures_and_intervals_as_sacrebleu_has_them() -> None:
    found, signatures = measure(GOOD, GOLD)
    chrf, bleu = sacrebleu.corpus_chrf(GOOD, [GOLD]), sacrebleu.corpus_bleu(GOOD, [GOLD])
    assert found.metrics == {"chrf": pytest.approx(chrf.score), "bleu": pytest.approx(bleu.score)}
    assert "tok:13a" in signatures["bleu"]
    theirs = CHRF().corpus_score(GOOD, [GOLD], n_bootstrap=1000)
    low, high = found.intervals["chrf"]
    assert (low + high) / 2 == pytest.approx(theirs._mean, abs=0.3)
    assert (high - low) / 2 == pytest.approx(theirs._ci, abs=0.3)


def test_all_rows_once_are_the_corpus() -> None:
    """The bootstrap's arithmetic over sums, against sacrebleu's own over texts."""
    of_counts = statistic(BAD, GOLD, ("chrf", "bleu"))
    counts = np.ones((2, len(GOLD)), np.float32)
    counts[1, 30:] = 0
    values = of_counts(counts)
    expected = [sacrebleu.corpus_chrf(BAD[:n], [GOLD[:n]]).score for n in (60, 30)]
    assert values["chrf"] == pytest.approx(expected)
    assert values["bleu"] == pytest.approx(
        [sacrebleu.corpus_bleu(BAD[:n], [GOLD[:n]]).score for n in (60, 30)]
    )


def test_the_gain_is_above_the_best_of_the_others() -> None:
    others = {"bad": BAD, "better": [text[:-4] for text in GOOD]}
    value, (low, high), against = gain(GOOD, others, GOLD)
    assert against == "better"
    apart = sacrebleu.corpus_chrf(GOOD, [GOLD]).score - sacrebleu.corpus_chrf(others["better"], [GOLD]).score
    assert value == pytest.approx(apart)
    assert 0 < low <= value <= high
    _, (low, high), _ = gain(GOOD, {"itself": GOOD}, GOLD)
    assert (low, high) == (0, 0)


def test_what_is_luck_is_so_for_sacrebleu_too() -> None:
    """An interval that holds 0 where sacrebleu's paired bootstrap finds no difference, and none where it does."""
    a = [text if n % 2 else BAD[n] for n, text in enumerate(GOLD)]
    b = [text if not n % 2 else BAD[n] for n, text in enumerate(GOLD)]
    for said, other in ((a, b), (GOOD, BAD)):
        systems = [("other", list(other)), ("said", list(said))]
        tested = PairedTest(systems, {"chrf": CHRF()}, [GOLD], test_type="bs", n_samples=1000)()[1]
        p_value = next(iter(value for name, value in tested.items() if name != "System"))[1].p_value
        _, (low, high), _ = gain(said, {"other": other}, GOLD)
        assert (low <= 0 <= high) == (p_value > 0.05)


def test_languages_without_spaces_are_counted_by_their_own_words() -> None:
    _, signatures = measure(["今天天气很好。"], ["今天天气好。"], 0, "zh-CN")
    assert "tok:zh" in signatures["bleu"]
    _, signatures = measure(["今日は天気がいい。"], ["今日は天気がよい。"], 0, "ja")
    assert "tok:char" in signatures["bleu"]


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return evaluate_run(run(), EvaluationOptions(bundle=bundle(), require=parsed(["chrf>=0"]), threads=1))


def test_a_run_is_judged_beside_copies_its_base_and_its_bundle(found: dict[str, Any]) -> None:
    assert list(found["sides"]) == ["torch", "ONNX"]
    assert list(found["baselines"]) == [COPY, "base, 2 examples in context"]
    assert found["agreement"]["texts"] == 1.0
    assert found["sides"]["torch"]["metrics"] == found["sides"]["ONNX"]["metrics"]
    lines = [json.loads(line) for line in (run().folder / "predictions.jsonl").read_text().splitlines()]
    rows = [json.loads(line) for line in (kit() / "test.jsonl").read_text().splitlines()]
    assert [(line["source"], line["gold"]) for line in lines] == [(row["en"], row["es"]) for row in rows]
    copies = sacrebleu.corpus_chrf([row["en"] for row in rows], [[row["es"] for row in rows]])
    assert found["baselines"][COPY]["metrics"]["chrf"] == pytest.approx(copies.score)
    said = sacrebleu.corpus_chrf([line["predicted"] for line in lines], [[row["es"] for row in rows]])
    assert found["metrics"]["chrf"] == pytest.approx(said.score)
    best = max(side["metrics"]["chrf"] for side in found["baselines"].values())
    assert found["metrics"]["chrf_gain"] == pytest.approx(said.score - best)
    assert [line["figures"]["chrf"] for line in lines] == pytest.approx(
        of_rows([line["predicted"] for line in lines], [row["es"] for row in rows])
    )
    page = (run().folder / "report.html").read_text()
    for said_there in (
        "chrF above the best baseline",
        "torch and ONNX give the same text for 100.0%",
        "nrefs:1",
    ):
        assert said_there in page
    assert "pipeline_tag: translation" in run().card_path.read_text()


def test_each_answer_has_its_own_limit() -> None:
    held, recipe = held_out(run()), Recipe.load(run().recipe_path)
    model = models_of(run(), run().finished_record(), recipe)[1]
    prompts = [row.prompt(held.codec) for row in held.conversations[:3]]
    device = next(model.parameters()).device
    together = answers(model, held.codec, prompts, [1, 12, 5], device)
    alone = [
        answers(model, held.codec, [prompt], most, device)[0]
        for prompt, most in zip(prompts, (1, 12, 5), strict=True)
    ]
    assert together == alone


def test_a_bundle_is_judged_by_a_file_of_its_own_columns(
    found: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", str(bundle()), "--data", str(kit() / "test.jsonl"), "--out", str(tmp_path / "x")]
    assert main(words) == 0
    alone = json.loads((tmp_path / "x" / "evaluation.json").read_text())
    assert alone["sides"]["ONNX"]["metrics"]["chrf"] == found["sides"]["ONNX"]["metrics"]["chrf"]
    assert list(alone["baselines"]) == [COPY]
    assert "chrF" in capsys.readouterr().out
    assert (
        main(["evaluate", str(run().folder), "--data", str(kit() / "test.jsonl"), "--bundle", str(bundle())])
        == 0
    )
    given = json.loads((run().folder / "evaluation.json").read_text())
    assert given["split"] == "given"
    assert given["metrics"]["chrf"] == found["metrics"]["chrf"]


def test_a_merged_run_is_judged_by_its_bundles_base() -> None:
    found = evaluate_run(run(), EvaluationOptions(bundle=merged(), threads=1))
    assert list(found["sides"]) == ["torch", "ONNX"]
    assert found["agreement"]["texts"] >= 0.75  # merging rounds


def test_an_unknown_figure_is_refused_before_anything_is_computed() -> None:
    with pytest.raises(UsageError, match=r"chrf, bleu"):
        evaluate_run(run(), EvaluationOptions(require=parsed(["accuracy>=0.5"])))


def test_runs_are_compared_row_by_row(found: dict[str, Any], tmp_path: Path) -> None:
    evaluate_run(run(), EvaluationOptions(threads=1))
    other = shutil.copytree(run().folder, tmp_path / "other")
    lines = [json.loads(line) for line in (other / "predictions.jsonl").read_text().splitlines()]
    text = "".join(json.dumps({**line, "predicted": line["gold"]}) + "\n" for line in lines)
    (other / "predictions.jsonl").write_text(text)
    (apart,) = compare([run().folder, other]).runs[1].differences
    assert apart.metric == "chrf"
    assert apart.value == pytest.approx(100 - found["metrics"]["chrf"])


def test_an_adapter_of_chat_is_still_judged_with_its_run(tmp_path: Path) -> None:
    from ptune.evaluation.classification.onnx_side import the_adapter
    from ptune.formats.bundle import Bundle

    opened = Bundle.open(bundle())
    assert (the_adapter(opened, NAME).translation or {})["target"] == "es"
    opened.adapter = lambda name: type(opened).adapter(opened, name).model_copy(update={"translation": None})  # type: ignore[method-assign]
    with pytest.raises(FormatError, match="judged with its run"):
        the_adapter(opened, NAME)


def test_a_bundle_is_judged_without_torch() -> None:
    without = "import sys; sys.modules.update(dict.fromkeys(('torch', 'transformers', 'peft'))); "
    judging = "import ptune.evaluation.translation.served"
    subprocess.run([sys.executable, "-c", without + judging], check=True)
