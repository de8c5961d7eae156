"""What the model answers while it trains: plain transformers' answers, once each, and nothing of the training changes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM

from ptune.codecs.chat import ChatCodec
from ptune.config.recipe import Evaluate, Recipe
from ptune.fine_tune import train
from ptune.formats.run import Run
from ptune.methods.freeze import FreezeExceptLast
from ptune.methods.lora import Lora
from ptune.training.journal.metrics_log import read
from ptune.training.journal.samples import Answer, Asked, Samples

from .conftest import Make, fingerprint


def asking(recipe: Recipe, samples: int, tokens: int = 5) -> Recipe:
    evaluate = Evaluate(samples=samples, sample_tokens=tokens)
    return recipe.model_copy(update={"evaluate": evaluate})


def lines(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.samples_path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (Lora(r=4), {}),
        (Lora(r=4), {"gradient_checkpointing": True, "tiled_mlp": 16, "fast": False}),
        (FreezeExceptLast(layers=1), {}),
    ],
)
def test_answers_are_those_of_plain_transformers(
    make: Make, tmp_path: Path, method: Any, options: dict[str, Any]
) -> None:
    run = train(asking(make(method=method, epochs=3, validate_every=4, **options), 2), tmp_path / "run")
    entries = run.samples()
    validated = [entry["step"] for entry in read(run.metrics_path) if "validation_loss" in entry]
    assert [entry["step"] for entry in entries] == [step for step in validated for _ in range(2)]
    kept = [entry for entry in entries if entry["step"] == run.record().best_step]
    model: Any
    if run.has_adapter:
        source = Recipe.load(run.recipe_path).backbone.model
        model = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32), str(run.adapter_path)
        )
    else:
        model = AutoModelForCausalLM.from_pretrained(run.model_path, dtype=torch.float32)
    codec = ChatCodec.open(run.codec_path)
    for entry in kept:
        ids = codec.encode_prompt([{"role": "user", "content": entry["prompt"]}])
        output = model.generate(
            input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), max_new_tokens=5,
            do_sample=False, eos_token_id=sorted(codec.eos_ids), pad_token_id=0,
        )[0, len(ids) :].tolist()  # fmt: skip
        ended = any(token in codec.eos_ids for token in output)
        said = [token for token in output if token not in codec.eos_ids] if ended else output
        assert (entry["answer"], entry["ended"]) == (codec.decode_answer(said).strip(), ended)


def test_training_is_the_same_with_and_without(make: Make, tmp_path: Path) -> None:
    recipe = make(method=Lora(r=4, dropout=0.2), dropout=0.1, epochs=2, validate_every=2, ema=0.9)
    asked, quiet = (train(asking(recipe, count), tmp_path / str(count)) for count in (3, 0))
    assert len({entry["prompt"] for entry in lines(asked)}) > 1
    assert not quiet.samples_path.exists()
    assert quiet.samples() == []
    for name in ("adapter_path", "checkpoints_path"):
        one, other = (getattr(run, name) for run in (asked, quiet))
        if name == "adapter_path":
            assert fingerprint(one) == fingerprint(other)
        else:
            newest = sorted(one.glob("step-*/*.safetensors"))
            assert newest
            assert all(path.read_bytes() == (other / path.relative_to(one)).read_bytes() for path in newest)
    for key in ("loss", "grad_norm", "validation_loss"):
        series = [[e[key] for e in read(run.metrics_path) if key in e] for run in (asked, quiet)]
        assert series[0] == series[1]


def test_each_answer_is_there_once_after_a_resume(make: Make, tmp_path: Path, interrupt_at: None) -> None:
    recipe = asking(make(epochs=2, validate_every=2, save_every=1), 2)
    broken = train(recipe, tmp_path / "broken")
    assert [entry["step"] for entry in lines(broken)] == [2, 2]
    with broken.samples_path.open("a") as file:  # as if killed after step 4 and its answers
        file.write(
            '{"step": 4, "prompt": "p", "answer": "a", "ended": true, "expected": ""}\n{"step": 4, "pro'
        )
    resumed = train(recipe, tmp_path / "broken", resume=True)
    whole = train(recipe, tmp_path / "whole")
    assert resumed.samples_path.read_bytes() == whole.samples_path.read_bytes()


def test_long_prompts_are_passed_over(make: Make, tmp_path: Path) -> None:
    run = train(asking(make(max_steps=1, micro_batch_tokens=16), 1, tokens=12), tmp_path / "run")
    assert not run.samples_path.exists(), "no prompt of 4 tokens"


class _Rolls:
    """Answers by a roll of the dice."""

    asked: Sequence[Asked] = (Asked("how many?", "six"),)

    def answers(self, model: nn.Module, most_s: float) -> list[Answer]:
        return [Answer(str(torch.rand(()).item()), ended=True)]


class _Cannot(_Rolls):
    def answers(self, model: nn.Module, most_s: float) -> list[Answer]:
        raise NotImplementedError("no generate\nhere")


def test_random_numbers_go_on_as_if_nothing_was_asked(tmp_path: Path) -> None:
    samples = Samples(tmp_path / "samples.jsonl", _Rolls(), writes=True)
    model = nn.Linear(1, 1)
    before = torch.get_rng_state()
    samples.write(7, model)
    assert torch.equal(torch.get_rng_state(), before)
    (line,) = (tmp_path / "samples.jsonl").read_text().splitlines()
    entry = json.loads(line)
    assert (entry["step"], entry["prompt"], entry["expected"]) == (7, "how many?", "six")


def test_a_model_that_cannot_answer_is_asked_once_and_trains_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = Samples(tmp_path / "samples.jsonl", _Cannot(), writes=True)
    samples.write(1, nn.Linear(1, 1))
    samples.write(2, nn.Linear(1, 1))
    told = capsys.readouterr().err
    assert told.count("no samples: the model could not answer (NotImplementedError: no generate)") == 1
    assert not (tmp_path / "samples.jsonl").exists()


def test_another_process_writes_nothing(tmp_path: Path) -> None:
    samples = Samples(tmp_path / "samples.jsonl", _Rolls(), writes=False)
    samples.write(1, nn.Linear(1, 1))
    samples.forget_after(0)
    assert not (tmp_path / "samples.jsonl").exists()
