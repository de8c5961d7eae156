"""`ptune ask`: what a run's model says to one input before and after training, held to transformers and peft."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel
from support import chat_run, classified, retrieval_runs, tiny_images, tiny_models, translation_runs
from support.seq2seq_models import build_seq2seq
from torch.nn.functional import cosine_similarity

from ptune.cli import main
from ptune.codecs.seq2seq import Seq2SeqCodec
from ptune.config.chat import Chat
from ptune.config.classification import ImageClassification
from ptune.config.process_reward import ProcessReward
from ptune.config.recipe import Backbone, Data, Recipe, Train
from ptune.config.recommendation import Recommendation
from ptune.config.task_spec import TaskSpec
from ptune.config.tasks import TASKS, task_of
from ptune.config.translation import Translation
from ptune.errors import UsageError
from ptune.evaluation.asking.lines import answer_lines, lines_of
from ptune.evaluation.asking.question import Question, Said, needs
from ptune.fine_tune import train
from ptune.formats.run import Run
from ptune.kinds import imported
from ptune.methods.lora import Lora

PROMPT = "Define love."


def asker(run: Run) -> Any:
    return imported(task_of(Recipe.load(run.recipe_path).task).ask)(run)


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("chat")
    tiny_models.build(folder / "model")
    return chat_run.trained(folder)


def _generated(run: Run, prompt: str, *, adapter: bool, template: bool = True) -> str:
    """By transformers and peft alone."""
    base = Recipe.load(run.recipe_path).backbone.model
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    if adapter:
        model = PeftModel.from_pretrained(model, str(run.adapter_path))
    if template:
        messages = [{"role": "user", "content": prompt}]
        ids = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )["input_ids"]
    else:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    out = model.eval().generate(input_ids=ids, max_new_tokens=12, do_sample=False, repetition_penalty=1.0)
    return str(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)).strip()


def test_a_chat_says_what_transformers_generates(chat: Run) -> None:
    ask, question = asker(chat), Question(PROMPT, max_tokens=12)
    said = {side: ask(side, question) for side in ("base", "tuned", "base")}
    assert said["base"].text == _generated(chat, PROMPT, adapter=False)
    assert said["tuned"].text == _generated(chat, PROMPT, adapter=True)
    assert said["base"].text != said["tuned"].text
    assert said["tuned"].note in ("", "cut after 12 tokens")


def test_a_run_on_plain_text_is_asked_in_plain_text(chat: Run, tmp_path: Path) -> None:
    rows = [{"prompt": f"{at} and", "completion": f" {at + 1}"} for at in range(20)]
    data = classified.write(tmp_path / "plain.jsonl", rows)
    base = Recipe.load(chat.recipe_path).backbone
    recipe = Recipe(
        task=Chat(), method=Lora(r=4), backbone=base, data=Data(files=(data,)),
        train=Train(max_steps=1, batch_size=4),
    )  # fmt: skip
    run = train(recipe, tmp_path / "run")
    said = asker(run)("base", Question("3 and", max_tokens=12))
    assert said.text == _generated(run, "3 and", adapter=False, template=False)


def test_a_prompt_that_leaves_no_room_is_a_sentence(chat: Run) -> None:
    with pytest.raises(UsageError, match="shorten it"):
        asker(chat)("base", Question("word " * 4000))


def test_time_bounds_what_is_written(chat: Run) -> None:
    said = asker(chat)("base", Question(PROMPT, max_tokens=400, max_s=1e-6))
    assert "cut after 0 s" in said.note


def test_labels_are_those_of_the_evaluation(tmp_path: Path) -> None:
    run = classified.trained(tmp_path, train=Train(max_steps=8, lr=5e-3, batch_size=16))
    assert main(["evaluate", str(run.folder)]) == 0
    rows = classified.reviews(60, 160)
    lines = [json.loads(line) for line in (run.folder / "predictions.jsonl").read_text().splitlines()]
    labels = json.loads(run.evaluation_path.read_text())["labels"]
    ask = asker(run)
    for row, line in list(zip(rows, lines, strict=True))[:5]:
        said = ask("tuned", Question(row["text"]))
        assert [said.scores[label] for label in labels] == pytest.approx(line["scores"], abs=1e-5)
        assert next(iter(said.scores)) == line["predicted"]
    said = ask("base", Question("a lovely room"))
    assert said.scores is None
    assert "no head for these labels" in said.note


def test_a_regressors_number_says_that_it_is_none_of_a_label(tmp_path: Path) -> None:
    rows = [{"text": row["text"], "label": 0.1 * (at % 5)} for at, row in enumerate(classified.reviews(40))]
    data = classified.write(tmp_path / "numbers.jsonl", rows)
    run = classified.trained(tmp_path, data=Data(files=(data,)), train=Train(max_steps=1, batch_size=16))
    said = asker(run)("tuned", Question("a lovely room"))
    assert said.described() == {"scores": said.scores, "numbers": True}
    assert len(said.scores) == 1


@pytest.mark.parametrize("names", [("bad", "good"), ("good", "bad")])
def test_a_base_with_a_head_for_the_labels_answers_too(tmp_path: Path, names: tuple[str, str]) -> None:
    encoder = classified.encoder(tmp_path / "encoder")
    labels = dict(enumerate(names))
    torch.manual_seed(1)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        encoder, num_labels=2, id2label=labels, label2id={name: at for at, name in labels.items()}
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(encoder)
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "model")
    run = classified.trained(tmp_path, train=Train(max_steps=1, lr=5e-3, batch_size=16))
    said = asker(run)("base", Question("a lovely room"))
    expected = model.eval()(**tokenizer("a lovely room", return_tensors="pt")).logits.softmax(-1)[0]
    assert said.scores == pytest.approx({labels[at]: float(expected[at]) for at in labels}, abs=1e-6)


def test_words_are_tagged_where_they_stand(tmp_path: Path) -> None:
    run = classified.trained(tmp_path, "tags", train=Train(epochs=4, lr=1e-2, batch_size=16))
    said = asker(run)("tuned", Question("the trip, the food: Paris"))
    [mark] = said.marks
    assert (mark.begin, mark.end, mark.label) == (20, 25, "PLACE")


def test_an_image_gets_the_labels_of_the_trained_model(tmp_path: Path) -> None:
    folder = tiny_images.labelled_folder(tmp_path / "images")
    model = tiny_images.build(tmp_path / "model", next(iter(tiny_images.FAMILIES)))
    recipe = Recipe(
        task=ImageClassification(), backbone=Backbone(model=str(model)), method=Lora(r=2),
        data=Data(files=(folder,)), train=Train(max_steps=1, batch_size=4),
    )  # fmt: skip
    run = train(recipe, tmp_path / "run")
    one = next(path for path in sorted(folder.rglob("*")) if path.is_file())
    said = asker(run)("tuned", Question(image=one))
    assert sum(said.scores.values()) == pytest.approx(1, abs=1e-5)
    assert set(said.scores) == {path.name for path in folder.iterdir()}
    (tmp_path / "no.png").write_bytes(b"nothing")
    with pytest.raises(Exception, match="image"):
        asker(run)("tuned", Question(image=tmp_path / "no.png"))


def test_texts_are_compared_by_the_cosines_of_peft() -> None:
    run = retrieval_runs.embedding_run()
    others = tuple(row["positive"] for row in retrieval_runs.pairs(3))
    texts = [retrieval_runs.pairs(1)[0]["anchor"], *others]
    base = Recipe.load(run.recipe_path).backbone.model
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    bare: Any = transformers.AutoModel.from_pretrained(base)

    def cosines(model: Any) -> dict[str, float]:
        vectors = [
            model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0) for text in texts
        ]
        return {
            other: float(cosine_similarity(vectors[0], vector, dim=0))
            for other, vector in zip(others, vectors[1:], strict=True)
        }

    ask, question = asker(run), Question(texts[0], others)
    with torch.no_grad():
        expected = cosines(bare.eval())
        assert ask("base", question).scores == pytest.approx(expected, abs=1e-5)
    tuned = ask("tuned", question).scores
    assert tuned != pytest.approx(expected, abs=1e-3)
    assert list(tuned.values()) == sorted(tuned.values(), reverse=True)
    assert ask("base", question).scores == pytest.approx(expected, abs=1e-5), (
        "the adapter was switched off again"
    )


def test_a_reranker_scores_and_its_base_does_not() -> None:
    ask = asker(retrieval_runs.reranking_run())
    question = Question("what is red", ("an apple", "the sky"))
    assert set(ask("tuned", question).scores) == {"an apple", "the sky"}
    assert "no head that scores" in ask("base", question).note


def test_a_translation_is_that_of_the_evaluation() -> None:
    run = translation_runs.run()
    row = json.loads((translation_runs.kit() / "test.jsonl").read_text().splitlines()[0])
    assert main(["evaluate", str(run.folder)]) == 0
    told = [json.loads(line) for line in (run.folder / "predictions.jsonl").read_text().splitlines()]
    known = next(line for line in told if row["en"] in json.dumps(line, ensure_ascii=False))
    said = asker(run)("tuned", Question(row["en"], max_tokens=2048))
    assert said.text
    assert json.dumps(said.text, ensure_ascii=False)[1:-1] in json.dumps(known, ensure_ascii=False)


def test_an_encoder_decoder_says_what_transformers_generates(tmp_path: Path) -> None:
    model = build_seq2seq(tmp_path / "t5", "t5")
    rows = [{"source": f"open {at}", "target": f"{at} open"} for at in range(20)]
    recipe = Recipe(
        task=Translation(system="swap: "), backbone=Backbone(model=str(model)), method=Lora(r=4),
        data=Data(files=(classified.write(tmp_path / "pairs.jsonl", rows),)), train=Train(max_steps=4, lr=1e-2, batch_size=8),
    )  # fmt: skip
    run = train(recipe, tmp_path / "run")
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    base: Any = transformers.AutoModelForSeq2SeqLM.from_pretrained(model)
    ids = torch.tensor([Seq2SeqCodec.open(run.codec_path).source("swap: open 3").ids])
    ask, question = asker(run), Question("open 3", max_tokens=8)
    expected = base.eval().generate(input_ids=ids, max_new_tokens=8, do_sample=False)[0]
    assert ask("base", question).text == tokenizer.decode(expected, skip_special_tokens=True)
    adapted: Any = PeftModel.from_pretrained(base, str(run.adapter_path)).eval()
    expected = adapted.generate(input_ids=ids, max_new_tokens=8, do_sample=False)[0]
    assert ask("tuned", question).text == tokenizer.decode(expected, skip_special_tokens=True)


@pytest.mark.parametrize(
    ("task", "endpoint"), [(Recommendation(), "/v1/recommend"), (ProcessReward(), "/v1/tag")]
)
def test_what_is_not_asked_is_refused_in_one_sentence(task: TaskSpec, endpoint: str) -> None:
    name = type(task).__name__
    with pytest.raises(UsageError, match=rf"{name} model is not asked from its run.*{endpoint}"):
        needs(task)
    assert [one.recipe_name for one in TASKS if not one.ask] == ["Recommendation", "ProcessReward"]


def test_an_empty_answer_is_an_answer() -> None:
    assert Said("").described() == {"text": ""}
    assert Said(note="why").described() == {"note": "why"}
    assert Said(marks=()).described() == {"marks": ()}


@pytest.mark.parametrize(
    ("question", "needed", "told"),
    [
        (Question(" "), ("text",), "write a text"),
        (Question("a"), ("image",), "about an image, not a text"),
        (Question("a", ("b",)), ("text",), "leave out --other"),
        (Question("a"), ("text", "others"), "--other TEXT"),
        (Question("a", image=Path("x.png")), ("text",), "not an image"),
        (Question("a", max_tokens=0), ("text",), "--max-tokens is 0"),
        (Question("a", max_s=1e9), ("text",), "--max-s is 1e\\+09"),
        (Question("a" * 60_000), ("text",), "too much to ask"),
    ],
)
def test_questions_that_do_not_fit(question: Question, needed: tuple[str, ...], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        question.checked(needed)


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(("text", "others", "image", "max_tokens", "max_s", "x")), inner),
    max_leaves=8,
)  # fmt: skip


@given(value=_JSON, raw=st.binary(max_size=30))
def test_any_line_gets_an_answer(value: Any, raw: bytes) -> None:
    """Whatever comes in, one line that ends the question goes out, and the next is read."""
    told: list[dict[str, Any]] = []
    lines = [json.dumps(value).encode(), raw.replace(b"\n", b"") or b"x", b'{"text": "last"}']
    answer_lines(lambda side, question: Said(question.text), ("text",), iter(lines), told.append)
    assert sum("done" in one or "problem" in one for one in told) == 3 - (not lines[1].strip())
    assert told[-2:] == [{"side": "tuned", "text": "last"}, {"done": True}]


@given(chunks=st.lists(st.binary(max_size=6), max_size=6))
def test_lines_are_whole_however_they_come(chunks: list[bytes]) -> None:
    reads, writes = os.pipe()
    with open(reads, "rb") as read_side:
        with open(writes, "wb", buffering=0) as write_side:
            for chunk in chunks:
                write_side.write(chunk)
        assert list(lines_of(read_side.fileno())) == b"".join(chunks).split(b"\n")


def test_a_process_answers_line_by_line_and_ends_when_nobody_asks(chat: Run) -> None:
    command = [sys.executable, "-m", "ptune", "ask", str(chat.folder), "--lines", "--idle-s", "0.2"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None
    assert child.stdout is not None
    for question in ({"text": PROMPT, "max_tokens": 4}, {"text": ""}):
        child.stdin.write(json.dumps(question) + "\n")
    child.stdin.flush()
    told = [json.loads(line) for line in child.stdout]
    assert child.wait(timeout=60) == 0, "though its standard input is still open"
    assert [sorted(one)[0] for one in told] == ["ready", "note", "note", "done", "problem"]
    assert [one.get("side") for one in told[1:3]] == ["base", "tuned"]
    for stream in (child.stdin, child.stdout):
        stream.close()


def test_the_command_shows_both_sides(chat: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", str(chat.folder), PROMPT, "--max-tokens", "4"]) == 0
    out = capsys.readouterr().out
    assert out.index("base:") < out.index("tuned:") < out.index("next: ptune evaluate")
    assert main(["ask", str(chat.folder), PROMPT, "--max-tokens", "4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["result"]
    assert {"base", "tuned"} <= set(found)
    assert main(["ask", str(chat.folder), PROMPT, "--other", "x"]) == UsageError.exit_code
    assert main(["ask", str(chat.folder / "none"), PROMPT]) == 1
    assert "no run at" in capsys.readouterr().err
