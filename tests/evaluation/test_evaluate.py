"""Figures are those of plain transformers and peft, on the base and with the adapter."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Literal, cast

import pytest
import torch
import yaml
from peft import PeftModel
from support import tiny_models
from transformers import AutoModelForCausalLM

from ptune.codecs.chat import ChatCodec, Example
from ptune.config.recipe import Recipe
from ptune.data.shapes.conversations import Completion, Conversation
from ptune.errors import BackboneError, DataError, FormatError
from ptune.evaluation.evaluate import evaluate
from ptune.evaluation.held_out import first_rows, held_out
from ptune.evaluation.in_context import after, in_context, shots
from ptune.fine_tune import train
from ptune.formats.run import Run
from ptune.methods.full import Full
from ptune.tasks.chat.answers import answers


def base_of(run: Run) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(run.record().base.source, dtype=torch.float32).eval()


def tuned_of(run: Run) -> torch.nn.Module:
    return PeftModel.from_pretrained(base_of(run), run.adapter_path).eval()


@torch.no_grad()
def by_hand(
    model: torch.nn.Module, examples: list[Example], prefix: tuple[int, ...] = ()
) -> dict[str, float]:
    """One example at a time through plain transformers, after `prefix`."""
    loss, right, count = 0.0, 0, 0
    for example in examples:
        logits = model(torch.tensor([[*prefix, *example.ids]])).logits[0, len(prefix) :].log_softmax(-1)
        for place, wanted in enumerate(example.targets):
            if wanted:
                loss -= float(logits[place - 1, example.ids[place]])
                right += int(logits[place - 1].argmax() == example.ids[place])
                count += 1
    return {"loss": loss / count, "token_accuracy": right / count, "targets": count}


def test_figures_before_and_after(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    found = evaluate(run)
    assert found == json.loads(run.evaluation_path.read_text())
    assert (found["split"], found["examples"]) == ("test", 8)
    examples = held_out(run).examples
    for side, model in (("before", base_of(run)), ("after", tuned_of(run))):
        expected = by_hand(model, examples)
        assert found[side]["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        assert found[side]["perplexity"] == pytest.approx(math.exp(expected["loss"]), rel=1e-4)
        assert found[side]["token_accuracy"] == pytest.approx(expected["token_accuracy"])
        assert found[side]["targets"] == expected["targets"]
    assert found["after"]["loss"] < found["before"]["loss"]
    shown = capsys.readouterr().out
    assert f"{found['before']['loss']:.3f}" in shown
    assert f"{found['after']['loss']:.3f}" in shown


def test_in_context_is_the_base_reading_conversations_first(run: Run) -> None:
    found, held = evaluate(run)["in_context"], held_out(run)
    assert found["examples"] == 2
    chosen = shots(held.train, 2, None, held.codec, seed=0)
    assert not {shot.question for shot in chosen} & {
        conversation.question for conversation in held.conversations
    }
    tokenizer = tiny_models.tokenizer()
    read_first = tokenizer.apply_chat_template(
        [message for shot in cast("list[Conversation]", chosen) for message in shot.messages]
    )["input_ids"]
    expected = by_hand(base_of(run), held.examples, tuple(read_first))
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert found["targets"] == expected["targets"]


def test_a_limit_leaves_the_same_rows_to_all(run: Run) -> None:
    """Rows that were cut, and conversations of several examples, are not numbered alike."""
    held = held_out(run)
    codec, asked = held.codec, held.conversations
    cut = Example(held.examples[0].ids[:-1], held.examples[0].targets[:-1])
    examples = [cut, *held.examples]
    found, conversations = first_rows(examples, asked, 3, codec, "assistant")
    assert (list(found), conversations) == (examples[:3], list(asked[:2]))

    class Twice(Conversation):
        def examples(self, codec: ChatCodec, train_on: Literal["assistant", "last"]) -> list[Example]:
            (one,) = super().examples(codec, train_on)
            return [one, one]

    twice = [Twice(one.messages) for one in cast("list[Conversation]", asked)]
    doubled = [example for example in held.examples for _ in range(2)]
    for limit, rows in ((1, 1), (2, 1), (3, 1), (5, 2), (99, len(asked))):
        found, conversations = first_rows(doubled, twice, limit, codec, "assistant")
        assert (len(found), len(conversations)) == (2 * rows, rows)


def test_a_limit_in_a_run_whose_first_row_is_cut(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tiny_models.conversations(40)
    rows[32][-1]["content"] += " so" * 200
    recipe = Recipe.load(run.recipe_path)
    parts = {
        "task": {"max_length": 128, "on_overlong": "truncate"},
        "data": {"test": (tiny_models.write_jsonl(tmp_path / "test.jsonl", rows[32:]),)},
        "train": {"max_steps": 1},
        "evaluate": {"limit": 3, "answers": 0},
    }
    changed = {name: getattr(recipe, name).model_copy(update=update) for name, update in parts.items()}
    found = evaluate(train(recipe.model_copy(update=changed), tmp_path / "cut"))
    codec = held_out(run).codec
    cut, *whole = (codec.encode_example(row) for row in rows[32:35])
    assert len(cut) > 128
    of_cut, of_whole = sum(cut.targets[:128]), sum(one.target_count for one in whole)
    assert found["before"]["targets"] == of_cut + of_whole
    assert found["in_context"]["targets"] == of_whole
    assert f"lacks rows that were cut, or are raw text: {of_cut} targets" in capsys.readouterr().err.replace(
        "\n", " "
    )


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2", "gemma2"])
@pytest.mark.parametrize("shared", [0, 25])
def test_what_is_read_once_changes_nothing(family: str, shared: int) -> None:
    """Sliding windows, learned positions."""
    model = tiny_models.model(family)
    generator = torch.Generator().manual_seed(0)
    start, *rows = (torch.randint(5, 600, (n,), generator=generator).tolist() for n in (shared, 11, 14, 9))
    examples = [Example((*start, *row), (*[False] * (shared + 1), *[True] * (len(row) - 1))) for row in rows]
    found = in_context("", model, examples, torch.device("cpu"))
    assert found["loss"] == pytest.approx(by_hand(model, examples)["loss"], rel=1e-5)


def test_the_system_message_stays_first_and_only_the_own_answer_counts(run: Run) -> None:
    codec = held_out(run).codec
    system, question, answer = ({"role": role, "content": role} for role in ("system", "user", "assistant"))
    shot, asked = Conversation((system, question, answer)), Conversation((system, question, answer))
    [example] = after([shot], asked, codec, "assistant")
    expected = codec.encode_example([system, question, {**answer, "train": False}, question, answer])
    assert example == expected
    assert example.target_count == codec.encode_example([question, answer]).target_count


def test_plain_text_is_put_before_plain_text(run: Run) -> None:
    codec = held_out(run).codec
    first, second = Completion("one", " two"), Completion("three", " four")
    [example] = after([first], second, codec, "assistant")
    assert (
        example.ids
        == codec.encode_completion("one", " two").ids + codec.encode_completion("three", " four").ids
    )
    assert example.target_count == codec.encode_completion("three", " four").target_count


def test_examples_in_context_leave_room_for_the_held_out_one(run: Run) -> None:
    held = held_out(run)
    lengths = sorted(len(conversation.example(held.codec, "assistant")) for conversation in held.train)
    assert len(shots(held.train, 99, None, held.codec, seed=0)) == len(held.train)
    for seed in range(5):
        chosen = shots(held.train, 99, 2 * lengths[-1], held.codec, seed=seed)
        assert chosen
        assert sum(len(shot.example(held.codec, "assistant")) for shot in chosen) <= 2 * lengths[-1]
    assert shots(held.train, 8, lengths[0] - 1, held.codec, seed=0) == []


def test_as_many_answers_are_kept_as_are_asked_for(run: Run) -> None:
    held, few = held_out(run), evaluate(run)["answers"]
    more = evaluate(run, kept=99)["answers"]
    assert len(more) == len(held.conversations) > len(few)
    assert more[: len(few)] == few
    assert evaluate(run, kept=0)["answers"] == []


def test_answers_are_greedy_and_the_same_together_as_alone(run: Run) -> None:
    found, held = evaluate(run)["answers"], held_out(run)
    assert [answer["prompt"] for answer in found] == [c.question for c in held.conversations[:3]]
    assert [answer["expected"] for answer in found] == [c.answer for c in held.conversations[:3]]
    for side, model in (("base", base_of(run)), ("adapter", tuned_of(run))):
        for answer, conversation in zip(found, held.conversations, strict=False):
            assert answer[side] == greedy(model, held.codec, conversation.prompt(held.codec), 6)
    assert any(answer["base"] != answer["adapter"] for answer in found)


@torch.no_grad()
def greedy(model: torch.nn.Module, codec: ChatCodec, prompt: list[int], tokens: int) -> str:
    """No cache, no padding."""
    ids = list(prompt)
    for _ in range(tokens):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] in codec.eos_ids:
            ids.pop()
            break
    return codec.decode(ids[len(prompt) :]).strip()


def test_an_answer_ends_at_any_of_the_ends(run: Run) -> None:
    model, codec = base_of(run), held_out(run).codec
    prompts = [codec.encode_prompt(messages[:1]) for messages in tiny_models.conversations(6)]
    longest = answers(model, codec, prompts, 8, torch.device("cpu"))
    first = int(model(torch.tensor([prompts[0]])).logits[0, -1].argmax())
    ending = ChatCodec(codec.tokenizer, tiny_models.CHATML, codec.special_tokens, [first], codec.context)
    ended = answers(model, ending, prompts, 8, torch.device("cpu"))
    assert ended[0] == ""
    assert longest[0] != ""


def test_full_fine_tuning_is_evaluated_against_its_base(trained: Run, tmp_path: Any) -> None:
    recipe = Recipe.load(trained.recipe_path)
    options = recipe.train.model_copy(update={"max_steps": 4, "lr": 1e-3})
    run = train(recipe.model_copy(update={"method": Full(), "train": options}), tmp_path / "full")
    found = evaluate(run)
    examples = held_out(run).examples
    assert found["before"]["loss"] == pytest.approx(by_hand(base_of(run), examples)["loss"], rel=1e-5)
    tuned = AutoModelForCausalLM.from_pretrained(run.model_path).eval()
    assert found["after"]["loss"] == pytest.approx(by_hand(tuned, examples)["loss"], rel=1e-5)


def test_validation_serves_where_there_is_no_test(run: Run) -> None:
    recipe = Recipe.load(run.recipe_path)
    data = recipe.data.model_copy(update={"test": ()})
    evaluation = recipe.evaluate.model_copy(update={"limit": 2, "answers": 0, "in_context": 0})
    recipe.model_copy(update={"data": data, "evaluate": evaluation}).save(run.recipe_path)
    found = evaluate(run)
    assert (found["split"], found["examples"], found["answers"]) == ("validation", 2, [])
    assert "in_context" not in found


def test_the_card_carries_licence_figures_and_identity(run: Run) -> None:
    found = evaluate(run)
    card = run.card_path.read_text()
    header = yaml.safe_load(card.split("---")[1])
    base = run.record().base
    assert (header["license"], header["base_model"], header["library_name"]) == (
        "apache-2.0",
        base.source,
        "peft",
    )
    assert base.hash in card
    assert f"| {found['before']['loss']:.3f} | {found['after']['loss']:.3f} |" in card


def test_a_run_that_is_not_finished_or_has_lost_its_base_is_refused(run: Run) -> None:
    record = run.record()
    run.write_record(record.model_copy(update={"status": "interrupted"}))
    with pytest.raises(FormatError, match="--resume"):
        evaluate(run)
    run.write_record(record.model_copy(update={"base": record.base.model_copy(update={"hash": "0" * 64})}))
    with pytest.raises(BackboneError, match="no longer holds the weights"):
        evaluate(run)
    assert not run.evaluation_path.is_file()


def test_data_that_has_changed_is_refused_by_name(run: Run) -> None:
    recipe = Recipe.load(run.recipe_path)
    (test,) = recipe.data.test
    other = tiny_models.write_jsonl(run.folder / "other.jsonl", tiny_models.conversations(8))
    before = test.read_bytes()
    try:
        test.write_bytes(other.read_bytes())
        with pytest.raises(DataError) as caught:
            held_out(run)
    finally:
        test.write_bytes(before)
    assert str(test) in str(caught.value)
    assert str(recipe.data.files[0]) not in str(caught.value)
    assert held_out(run).split == "test"
