"""A process reward model learns which steps are wrong, resumes to the byte, and is exported, proved and served as a tagger."""

from __future__ import annotations

import json
import random
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from peft import PeftModel
from support.fake_chat_model import serving
from transformers import AutoModelForTokenClassification, AutoTokenizer

import ptune
from ptune import publish
from ptune.errors import DataError, RequestError
from ptune.evaluation.classification.evaluate_bundle import evaluate_bundle
from ptune.evaluation.compare import compare
from ptune.evaluation.options import EvaluationOptions
from ptune.evaluation.process_reward.evaluate import evaluate_run
from ptune.evaluation.require import parsed
from ptune.fine_tune import train
from ptune.formats.bundle import Bundle
from ptune.formats.run import Run
from ptune.methods.full import Full
from ptune.methods.lora import Lora
from ptune.rewards import RewardError, rewards_of
from ptune.tasks.encoder.infer import load
from ptune.training.callbacks import StepInfo
from ptune_serve.app import create_encoder_app

from .conftest import Make, rows, write

KINDS = ["bert", "llama"]


@pytest.fixture(scope="session", params=KINDS)
def run(request: Any, make: Make, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(make(request.param), tmp_path_factory.mktemp("run") / "judge")


@pytest.fixture(scope="session")
def bundle(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "judge"
    publish.export_run(run, folder, name="judge", threads=1)
    return folder


def expected(run: Run, kit: Path, row: dict[str, Any]) -> list[float]:
    """How likely each step is right, by peft and transformers alone."""
    base = str(kit / ("bert" if "bert" in run.record().base.source else "llama"))
    model = AutoModelForTokenClassification.from_pretrained(base, num_labels=2)
    tuned = PeftModel.from_pretrained(model, run.adapter_path).eval()
    tokenizer = AutoTokenizer.from_pretrained(base)

    def alone(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    begin = tokenizer.bos_token_id if tokenizer.cls_token_id is None else tokenizer.cls_token_id
    ids, ends = [begin, *alone(row["prompt"])], []
    for step in row["completions"]:
        ids += alone(step) + alone("\n")
        ends.append(len(ids) - 1)
    if tokenizer.cls_token_id is not None:
        ids.append(tokenizer.sep_token_id)
    with torch.no_grad():
        logits = tuned(input_ids=torch.tensor([ids])).logits[0, ends]
    found: list[float] = logits.softmax(-1)[:, 1].tolist()
    return found


def test_it_beats_the_commonest_label_on_held_out_rows(run: Run, kit: Path) -> None:
    evaluation = evaluate_run(run, EvaluationOptions(require=parsed(["first_wrong_f1>=0.9"])))
    test = rows(24, 2)
    verdicts = [verdict for row in test for verdict in row["labels"]]
    baseline = evaluation["baselines"]["every step is right"]
    assert baseline["metrics"]["step_accuracy"] == pytest.approx(np.mean(verdicts))
    assert evaluation["metrics"]["step_accuracy"] > np.mean(verdicts) + 0.1
    assert evaluation["requirements"][0]["passed"]
    assert evaluation["no_better"] == ""
    assert evaluation["counts"] == {"steps": len(verdicts), "cut_off_steps": 0}
    assert evaluation["headline"][0] == "step_accuracy"
    assert "first wrong step found" in run.report_path.read_text()
    lines = [json.loads(line) for line in (run.folder / "predictions.jsonl").read_text().splitlines()]
    for line, row in list(zip(lines, test, strict=True))[:6]:
        assert line["right"] == pytest.approx(expected(run, kit, row), abs=1e-4)
        assert line["gold"] == ["right" if verdict else "wrong" for verdict in row["labels"]]


def test_a_bundle_judges_steps_as_torch_does(run: Run, bundle: Path, kit: Path, tmp_path: Path) -> None:
    both = evaluate_run(run, EvaluationOptions(bundle=bundle))
    assert both["agreement"]["max_abs_p"] < 1e-4
    asked = EvaluationOptions(data=(kit / "test.jsonl",), threads=1)
    alone = evaluate_bundle(bundle, tmp_path, asked)
    assert alone["metrics"] == both["sides"]["ONNX"]["metrics"]
    assert alone["baselines"] == {}
    record = Bundle.open(bundle).adapter("judge")
    assert (record.step_separator, record.labels) == ("\n", ("wrong", "right"))
    assert record.parity == "measured"
    row = rows(24, 2)[3]
    answer = "\n\n" + "\n".join(row["completions"]) + "\n"
    wanted = expected(run, kit, row)
    with closing(load(bundle, threads=1)) as model:
        (found,) = model.tag([(row["prompt"], answer)], "judge")
        nothing, bare = model.tag([(row["prompt"], " \n"), "love and war"], "judge")
        with pytest.raises(RequestError, match="no step to judge"):
            model.logits([(row["prompt"],)], "judge")
    assert [one.text for one in found] == row["completions"] == [answer[one.begin : one.end] for one in found]
    assert [one.label for one in found] == ["right" if share > 0.5 else "wrong" for share in wanted]
    assert [one.score for one in found] == pytest.approx([max(p, 1 - p) for p in wanted], abs=1e-4)
    assert nothing == []
    assert [one.text for one in bare] == ["love and war"]  # an answer without its prompt


def test_the_reward_joins_the_steps_of_an_answer(run: Run, bundle: Path, kit: Path) -> None:
    row = next(row for row in rows(24, 2) if False in row["labels"])
    steps = expected(run, kit, row)
    prompts = [[{"role": "user", "content": row["prompt"]}]] * 2
    answers = [[{"role": "assistant", "content": text}] for text in ("\n".join(row["completions"]), " ")]
    joined = {"": min(steps), ":min": min(steps), ":product": np.prod(steps), ":mean": np.mean(steps)}
    for join, wanted in joined.items():
        (reward,) = rewards_of([f"process_reward:{bundle}{join}"])
        found, empty = reward(prompts, answers, {})
        assert found == pytest.approx(wanted, abs=1e-4)
        assert empty == 0
    (whole,) = rewards_of([f"reward_model:{bundle}"])
    with pytest.raises(RewardError, match="has no adapter that gives one number"):
        whole(["?"], ["!"], {})


def test_an_answer_of_which_no_step_is_read_has_no_reward(bundle: Path) -> None:
    (reward,) = rewards_of([f"process_reward:{bundle}"])
    assert reward(["love " * 300], ["war"], {}) == [None]


def test_python_and_asyncio_give_the_same(bundle: Path) -> None:
    import asyncio

    asked: list[str | tuple[str, str]] = [("what is 7", "love and war\nlove"), "", "virtue"]

    async def answers(model: Any) -> Any:
        return await model.atag(asked)

    with ptune.load(bundle) as model:
        assert asyncio.run(answers(model)) == model.tag(asked)


def test_the_server_judges_pairs_of_prompt_and_answer(bundle: Path) -> None:
    asked = [["what is 7", "love and war\nlove and love"], "virtue"]
    with ptune.load(bundle) as model:
        expected = model.tag([(asked[0][0], asked[0][1]), "virtue"])
        with (
            serving(create_encoder_app(model)) as url,
            httpx.Client(base_url=url, timeout=20) as client,
        ):
            body = client.post("/v1/tag", json={"model": "judge", "input": asked}).json()
    found = [[(one["label"], one["begin"], one["end"]) for one in item["entities"]] for item in body["data"]]
    assert found == [[(one.label, one.begin, one.end) for one in steps] for steps in expected]
    assert [len(steps) for steps in found] == [2, 1]


def test_runs_are_compared_step_by_step(make: Make, run: Run, tmp_path: Path) -> None:
    other = train(make("bert", max_steps=2), tmp_path / "other")
    for one in (run, other):
        evaluate_run(one)
    found = compare([run.folder, other.folder])
    assert {apart.metric for apart in found.runs[1].differences} == {"step_accuracy", "first_wrong_f1"}


def test_a_run_that_was_interrupted_ends_in_the_same_bytes(make: Make, tmp_path: Path) -> None:
    def pause_after_three(info: StepInfo) -> None:
        if info.step == 3:
            info.pause()

    recipe = make(method=Lora(r=4, dropout=0.1), save_every=1, max_steps=6)
    whole = train(recipe, tmp_path / "whole")
    train(recipe, tmp_path / "stopped", callbacks=[pause_after_three])
    stopped = train(recipe, tmp_path / "stopped", resume=True)
    for name in ("adapter_model.safetensors", "ptune.json"):
        assert (whole.adapter_path / name).read_bytes() == (stopped.adapter_path / name).read_bytes()


def test_rows_that_are_too_long_are_cut_dropped_or_refused(make: Make, tmp_path: Path) -> None:
    long = {"prompt": "love", "completions": ["love", "war " * 300], "labels": [True, False]}
    path = write(tmp_path / "train.jsonl", [*rows(32, 5), long])

    def recipe(policy: str) -> Any:
        made = make(task={"on_overlong": policy}, max_steps=1)
        return made.model_copy(update={"data": made.data.model_copy(update={"files": (path,)})})

    with pytest.raises(DataError, match="1 of 57 rows are longer than"):
        train(recipe("error"), tmp_path / "error")
    counts = {}
    for policy in ("drop", "truncate"):
        data = json.loads(train(recipe(policy), tmp_path / policy).data_path.read_text())
        counts[policy] = [
            sum(data[split][name] for split in ("train", "validation")) for name in ("examples", "lost_words")
        ]
    assert counts == {"drop": [32, 1], "truncate": [33, 1]}


def sums(count: int, seed: int) -> list[dict[str, Any]]:
    """Answers of two to four sums, each wrong in three cases of ten."""
    chance, made = random.Random(seed), []
    for number in range(count):
        steps, verdicts = [], []
        for _ in range(chance.randint(2, 4)):
            one, other = chance.randint(1, 4), chance.randint(1, 4)
            right = chance.random() < 0.7
            wrong = [total for total in range(2, 9) if total != one + other]
            steps.append(f"{one} + {other} = {one + other if right else chance.choice(wrong)}")
            verdicts.append(right)
        made.append({"prompt": f"sum {seed} {number}", "completions": steps, "labels": verdicts})
    return made


@pytest.mark.slow
def test_a_tiny_model_learns_to_check_sums(make: Make, tmp_path: Path) -> None:
    recipe = make("llama", Full(), epochs=15.0, lr=3e-3, batch_size=16, micro_batch_tokens=2048)
    paths = [write(tmp_path / f"{name}.jsonl", sums(*of)) for name, of in (("a", (600, 1)), ("b", (60, 2)))]
    data = recipe.data.model_copy(update={"files": (paths[0],), "test": (paths[1],)})
    evaluation = evaluate_run(train(recipe.model_copy(update={"data": data}), tmp_path / "run"))
    baseline = evaluation["baselines"]["every step is right"]["intervals"]["step_accuracy"]
    assert evaluation["intervals"]["step_accuracy"][0] > baseline[1]
    assert evaluation["metrics"]["first_wrong_f1"] > 0.5
