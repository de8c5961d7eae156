"""Translation on an encoder-decoder from a recipe: it trains, reads back, resumes, and refuses what it cannot do."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from support.seq2seq_models import build_seq2seq
from transformers import AutoModelForSeq2SeqLM

from ptune import publish
from ptune.codecs.seq2seq import Seq2SeqCodec
from ptune.config.recipe import Backbone, Data, Recipe, Train
from ptune.config.translation import Translation
from ptune.data.examples.seq2seq import load_pairs
from ptune.errors import DataError, RecipeError
from ptune.evaluation.options import EvaluationOptions
from ptune.evaluation.translation.evaluate import evaluate_run
from ptune.fine_tune import train
from ptune.formats.run import Run
from ptune.methods import Method
from ptune.methods.full import Full
from ptune.methods.lora import Lora
from ptune.tasks.translation.facts import Seq2SeqFacts
from ptune.training.reload import LIMIT

WORDS = ("settings", "button", "window", "the file", "colour", "a name", "open", "close", "save", "print")


def pairs_file(path: Path, count: int = 40) -> Path:
    """Two words and the same in the other order."""
    rows = [
        {
            "source": f"{WORDS[i % 10]} {WORDS[(i // 3) % 10]}",
            "target": f"{WORDS[(i // 3) % 10]} {WORDS[i % 10]}",
        }
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def recipe(model: Path, data: Path, method: Method, **changes: Any) -> Recipe:
    task = Translation(**changes)
    loop = Train(max_steps=6, lr=1e-2, batch_size=8, validate_every=3, seed=3)
    return Recipe(
        name="swap", task=task, backbone=Backbone(model=str(model)), method=method, data=Data(files=(data,)), train=loop
    )  # fmt: skip


@pytest.mark.parametrize(("family", "method"), [("t5", Lora(r=4)), ("bart", Lora(r=4)), ("marian", Full())])
def test_a_run_learns_reads_back_and_says_what_it_was_trained_on(
    family: str, method: Method, tmp_path: Path
) -> None:
    model = build_seq2seq(tmp_path / family, family)
    run = train(
        recipe(model, pairs_file(tmp_path / "pairs.jsonl"), method, system="swap: "), tmp_path / "run"
    )
    record = run.record()
    assert record.status == "finished"
    assert record.hops[0].max_abs_logprob is not None
    assert record.hops[0].max_abs_logprob <= LIMIT
    losses = [json.loads(line) for line in run.metrics_path.read_text().splitlines()]
    validation = [one["validation_loss"] for one in losses if "validation_loss" in one]
    assert validation[-1] < validation[0]
    facts = Seq2SeqFacts.of_run(run)
    assert (facts.base, facts.system, facts.max_length) == (record.base.hash, "swap: ", 256)
    codec = Seq2SeqCodec.open(run.codec_path)
    ids = torch.tensor([codec.source("swap: open close").ids])
    if run.has_adapter:  # plain peft and plain transformers read what was saved
        again = PeftModel.from_pretrained(AutoModelForSeq2SeqLM.from_pretrained(model), run.adapter_path)
    else:
        again = AutoModelForSeq2SeqLM.from_pretrained(run.model_path)
        assert again.generation_config.bad_words_ids == [[0]]
    assert again.generate(input_ids=ids, max_new_tokens=4, do_sample=False).shape[0] == 1
    entries = run.samples()
    assert [entry["step"] for entry in entries] == [3, 3, 6, 6]
    for entry in entries:
        if entry["step"] == record.best_step:
            ids = torch.tensor([codec.source(f"swap: {entry['prompt']}").ids])
            written = again.generate(input_ids=ids, max_new_tokens=32, do_sample=False)[0, 1:].tolist()
            assert entry["answer"] == codec.decode(written)


def test_a_fully_trained_run_is_judged_by_its_bundle(tmp_path: Path) -> None:
    """Which has no adapter: the run's weights, and its instruction, are the bundle's own."""
    model, data = build_seq2seq(tmp_path / "t5", "t5"), pairs_file(tmp_path / "pairs.jsonl")
    run = train(recipe(model, data, Full(), system="swap: "), tmp_path / "run")
    publish.export_run(run, tmp_path / "bundle", name="swap", threads=1)
    found = evaluate_run(run, EvaluationOptions(bundle=tmp_path / "bundle", threads=1))
    assert list(found["sides"]) == ["torch", "ONNX"]
    assert found["agreement"] == {"texts": 1.0}


def test_a_run_that_was_interrupted_ends_in_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ptune.training import loop

    wanted = recipe(build_seq2seq(tmp_path / "t5", "t5"), pairs_file(tmp_path / "pairs.jsonl"), Lora(r=4))
    whole = train(wanted, tmp_path / "whole")
    step, taken = loop.optimizer_step, []

    def failing(*arguments: Any) -> float:
        taken.append(1)
        if len(taken) == 5:
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(loop, "optimizer_step", failing)
    with pytest.raises(KeyboardInterrupt):
        train(wanted, tmp_path / "cut")
    monkeypatch.setattr(loop, "optimizer_step", step)
    again = train(wanted, tmp_path / "cut", resume=True)
    name = "adapter_model.safetensors"
    assert (again.adapter_path / name).read_bytes() == (whole.adapter_path / name).read_bytes()


def test_what_only_a_causal_model_can_do_is_refused(tmp_path: Path) -> None:
    model, data = build_seq2seq(tmp_path / "t5", "t5"), pairs_file(tmp_path / "pairs.jsonl")
    plain = recipe(model, data, Lora())
    quantised = plain.model_copy(update={"backbone": Backbone(model=str(model), quantize="nf4")})
    enlarged = plain.model_copy(update={"backbone": Backbone(model=str(model), new_tokens=("<x>",))})
    for wrong, said in (
        (quantised, "encoder-decoder"),
        (enlarged, "keeps its tokens"),
        (recipe(model, data, Lora(), on_overlong="split"), "cut apart"),
        (recipe(model, data, Lora(), template=data), "no chat template"),
    ):
        with pytest.raises(RecipeError, match=said):
            train(wrong, tmp_path / "refused")


def test_texts_that_are_too_long_are_named_or_cut_or_left_out(tmp_path: Path) -> None:
    model, data = build_seq2seq(tmp_path / "bart", "bart"), pairs_file(tmp_path / "pairs.jsonl", 6)
    with data.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"source": "short", "target": "long " * 30}) + "\n")
    codec = _codec(model)
    given = Data(files=(data,), validation=(data,))
    with pytest.raises(DataError, match=r"2 of 14 rows have a text longer than 16 tokens .*line 7"):
        load_pairs(given, Translation(max_length=16), codec, 0)
    cut = load_pairs(given, Translation(max_length=16, on_overlong="truncate"), codec, 0)
    assert len(cut.train) == 7
    assert len(cut.train[-1].target) == 16
    assert cut.train[-1].target[-1] == 2
    left = load_pairs(given, Translation(max_length=16, on_overlong="drop"), codec, 0)
    assert (len(left.train), left.summary["train"]["left_out"]) == (6, 1)


def _codec(model: Path) -> Seq2SeqCodec:
    from ptune.backbone.seq2seq import load_seq2seq_codec

    return load_seq2seq_codec(Backbone(model=str(model)))


def test_the_codec_of_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    codec = _codec(build_seq2seq(tmp_path / "bart", "bart"))
    codec.save(tmp_path / "codec")
    again = Seq2SeqCodec.open(tmp_path / "codec")
    assert again.writing == codec.writing
    assert (again.writing.start_id, again.writing.forced_bos_id, again.writing.forced_eos_id) == (2, 1, 2)
    assert again.target("Open the file").ids == codec.target("Open the file").ids
    assert again.decode(again.target("Open the file").ids) == "Open the file"
    assert Run(tmp_path).adapter_path.name == "adapter"


WORD_FOR_WORD = dict(
    zip(["red", "green", "blue", "dog", "cat", "house", "one", "two"], ["rojo", "verde", "azul", "perro", "gato", "casa", "uno", "dos"], strict=True)
)  # fmt: skip


@pytest.mark.parametrize(
    ("family", "spread", "steps", "lr"),
    [
        ("t5", {"initializer_factor": 0.7}, 400, 6e-3),
        pytest.param("marian", {"init_std": 0.05}, 250, 3e-3, marks=pytest.mark.slow),
    ],
)
def test_a_small_model_learns_to_translate_from_nothing(
    family: str, spread: dict[str, Any], steps: int, lr: float, tmp_path: Path
) -> None:
    """Word for word and backwards; what is held out was never seen. The evaluation says so by chrF."""
    chance, rows = random.Random(0), dict[str, str]()
    while len(rows) < 1000:
        words = [chance.choice(list(WORD_FOR_WORD)) for _ in range(chance.randint(1, 4))]
        rows[" ".join(words)] = " ".join(WORD_FOR_WORD[word] for word in reversed(words))
    data = tmp_path / "words.jsonl"
    data.write_text("".join(json.dumps({"source": a, "target": b}) + "\n" for a, b in rows.items()))
    given = Recipe(
        name="words",
        task=Translation(target_language="es"),
        backbone=Backbone(model=str(build_seq2seq(tmp_path / family, family, **spread))),
        method=Full(),
        data=Data(files=(data,)),
        train=Train(max_steps=steps, lr=lr, batch_size=32, validate_every=steps),
    )
    run = train(given, tmp_path / "run")
    found = evaluate_run(run)
    assert found["sides"]["torch"]["metrics"]["chrf"] > 90, found["sides"]
    assert found["baselines"]["base"]["metrics"]["chrf"] < 30


def test_all_targets_of_a_source_are_held_out_together(tmp_path: Path) -> None:
    codec = _codec(build_seq2seq(tmp_path / "t5", "t5"))
    rows = [{"source": f"{WORDS[n % 10]} {WORDS[n % 3]}", "target": f"{WORDS[n // 30]}"} for n in range(120)]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = load_pairs(Data(files=(tmp_path / "x.jsonl",)), Translation(), codec, 3)
    assert {one.source for one in made.train}.isdisjoint(one.source for one in made.validation)
    assert (len(made.train), len(made.validation)) == (108, 12)
