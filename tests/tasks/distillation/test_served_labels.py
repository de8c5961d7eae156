"""Labels of what another server wrote are those that the engine computes; what is no such file is refused in a sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import tiny_models

import ptune
from ptune.cli import main
from ptune.codecs.chat import ChatCodec, Example
from ptune.data.teacher.labels import TeacherLabels
from ptune.errors import DataError, PtuneError, UsageError
from ptune.fine_tune import train
from ptune.tasks.distillation.served_labels import label_from_files
from ptune.tasks.distillation.student import Student

from .conftest import Kit, Make, recipe_of

Answer = Callable[[Example, list[dict[int, float]]], dict[str, Any]]
TOP = 8


def student_of(kit: Kit) -> tuple[ChatCodec, list[Example]]:
    student = Student.of(recipe_of(kit))
    return student.codec, list(student.to_label(student.data()))


def likely(kit: Kit, example: Example, top: int = TOP) -> list[dict[int, float]]:
    """Of each place but the first, as vLLM has them: the text's own token, then the most likely ones."""
    known = torch.from_numpy(kit.teacher.logits(list(example.ids), "wide")).double().log_softmax(1)
    found = []
    for at, token in enumerate(example.ids[1:]):
        best = known[at].topk(top)
        own = {token: float(known[at, token])}
        found.append(own | dict(zip(best.indices.tolist(), best.values.tolist(), strict=True)))
    return found


def prompt(example: Example, places: list[dict[int, float]], said: bool = True) -> dict[str, Any]:
    """A chat completion of vLLM with prompt_logprobs; said: with return_token_ids."""
    shown = [
        {str(token): {"logprob": value, "rank": 1, "decoded_token": "?"} for token, value in one.items()}
        for one in places
    ]
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "big",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "x"}, "logprobs": None}],
        "prompt_logprobs": [None, *shown],
        "prompt_token_ids": list(example.ids) if said else None,
    }


def completion(example: Example, places: list[dict[int, float]]) -> dict[str, Any]:
    """A completion of vLLM, whose choices have them."""
    chat = prompt(example, places)
    own = {name: chat.pop(name) for name in ("prompt_logprobs", "prompt_token_ids")}
    return {**chat, "object": "text_completion", "choices": [{"index": 0, "text": "x", **own}]}


def longer(example: Example, places: list[dict[int, float]]) -> dict[str, Any]:
    """What the template writes after the last answer is in the prompt, too."""
    return prompt(Example((*example.ids, 5), (*example.targets, False)), [*places, {5: -1.0, 6: -2.0}])


def batched(example: Example, places: list[dict[int, float]]) -> dict[str, Any]:
    body = prompt(example, places, said=False)
    return {
        "id": "b",
        "custom_id": "r",
        "response": {"status_code": 200, "request_id": "q", "body": body},
        "error": None,
    }


def answered(
    example: Example, places: list[dict[int, float]], spelled: Callable[[int], dict[str, Any]]
) -> dict[str, Any]:
    """A chat completion with the log-probabilities of its answer: the targets, which stand in one place."""
    start, end = example.targets.index(True), len(example) - example.targets[::-1].index(True)
    content = [
        {
            **spelled(example.ids[at]),
            "logprob": places[at - 1][example.ids[at]],
            "top_logprobs": [{**spelled(token), "logprob": value} for token, value in places[at - 1].items()],
        }
        for at in range(start, end)
    ]
    choice = {"index": 0, "logprobs": {"content": content}, "token_ids": list(example.ids[start:end])}
    return {"model": "big", "choices": [choice], "prompt_token_ids": list(example.ids[:start])}


def written(path: Path, lines: list[Any]) -> Path:
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


@pytest.mark.parametrize("shape", [prompt, completion, longer, batched])
def test_they_are_the_engines(kit: Kit, shape: Answer, tmp_path: Path) -> None:
    _, examples = student_of(kit)
    file = written(tmp_path / "out.jsonl", [shape(one, likely(kit, one)) for one in examples])
    labels = TeacherLabels.open(label_from_files(recipe_of(kit), [file], tmp_path / "labels"))
    engines = TeacherLabels.open(kit.folder / "labels")
    assert len(labels) == len(engines)
    assert (labels.settings.top, labels.settings.teacher.adapter) == (TOP, "big")
    for example in examples:
        one, other = labels.of(example), engines.of(example)
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=2e-4)
        np.testing.assert_allclose(np.exp(one.tail), np.exp(other.tail), atol=2e-4)
        same = (one.tokens == other.tokens) | np.isclose(one.logprobs, other.logprobs, atol=2e-4)
        assert same.all()


@pytest.mark.parametrize("by", ["id", "bytes"])
def test_the_log_probabilities_of_answers_serve_as_well(kit: Kit, by: str, tmp_path: Path) -> None:
    codec, _ = student_of(kit)
    table = codec.token_table(len(tiny_models.tokenizer()))

    def spelled(token: int) -> dict[str, Any]:
        if by == "id":
            return {"token": f"token_id:{token}", "bytes": None}
        return {"token": table[token].decode(errors="replace"), "bytes": list(table[token])}

    recipe = recipe_of(kit, task={"train_on": "last"})
    student = Student.of(recipe)
    examples = list(student.to_label(student.data()))
    file = written(tmp_path / "out.jsonl", [answered(one, likely(kit, one), spelled) for one in examples])
    labels = TeacherLabels.open(label_from_files(recipe, [file], tmp_path / "labels", top=4))
    assert len(labels) == len(examples)
    for example in examples[:6]:
        found, places = labels.of(example), likely(kit, example)
        for row, at in enumerate(at for at, target in enumerate(example.targets) if target):
            best = sorted(places[at - 1].values(), reverse=True)[:4]
            np.testing.assert_allclose(found.logprobs[row], best, atol=1e-5)
            assert float(found.tail[row]) == pytest.approx(np.log1p(-np.exp(best).sum()), abs=1e-4)


def test_a_student_trains_on_them(
    kit: Kit, make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the command, from two files, one of which was interrupted; and what is there is not written again."""
    _, examples = student_of(kit)
    lines = [prompt(one, likely(kit, one)) for one in examples]
    failed = {"custom_id": "r", "response": {"status_code": 500, "body": None}, "error": None}
    one, other = (
        written(tmp_path / "a.jsonl", [*lines[:10], failed]),
        written(tmp_path / "b.jsonl", lines[8:]),
    )
    make().save(tmp_path / "recipe.yaml")
    words = [
        "label",
        str(tmp_path / "recipe.yaml"),
        "--out",
        str(tmp_path / "labels"),
        "--logprobs",
        str(one),
    ]
    assert main(words) == 0
    told = capsys.readouterr()
    assert f"{len(examples) - 10} examples have no labels yet" in " ".join(told.err.split())
    assert f"ptune train {tmp_path}/recipe.yaml --task.teacher-labels {tmp_path}/labels" in told.out
    assert main([*words, str(other), "--train.lr", "0.01"]) == 0
    assert "--train.lr 0.01" in capsys.readouterr().out
    index = json.loads((tmp_path / "labels" / "labels.json").read_text())
    assert [shard["examples"] for shard in index["shards"]] == [10, len(examples) - 10]
    recipe = make(task={"teacher_labels": tmp_path / "labels"}, max_steps=2)
    assert train(recipe, tmp_path / "run").record().status == "finished"
    folder = ptune.label(recipe, [one, other], tmp_path / "again", top=3)
    assert TeacherLabels.open(folder).settings.top == 3


def test_what_cannot_be_labels_is_refused(kit: Kit, tmp_path: Path) -> None:
    _, examples = student_of(kit)
    example, places = examples[0], likely(kit, examples[0])

    def refused(kind: type[PtuneError], said: str, *lines: Any, top: int | None = None) -> None:
        file = written(tmp_path / "out.jsonl", list(lines))
        with pytest.raises(kind, match=said):
            label_from_files(recipe_of(kit), [file], tmp_path / "labels", top=top)
        assert not (tmp_path / "labels").exists()

    whole = prompt(example, places)
    refused(UsageError, r"--top must be from 1 to [89], .*is 10", whole, top=10)
    refused(DataError, r"out.jsonl:2 is no JSON", whole, "{")
    refused(DataError, r"out.jsonl:1 is no object, but list", "[1]")
    refused(DataError, 'neither prompt_logprobs nor logprobs.content.*"prompt_logprobs": 20', {"choices": []})
    refused(
        DataError,
        r"prompt_logprobs.1.5.logprob: .*no response",
        {"prompt_logprobs": [None, {"5": {"logprob": "x"}}]},
    )
    refused(
        DataError,
        r"3 prompt_logprobs of 2 tokens",
        {"prompt_logprobs": [None] * 3, "prompt_token_ids": [1, 2]},
    )
    others = Example(tuple(token + 1 for token in example.ids), example.targets)
    refused(
        DataError, "none of the 1 texts .* another tokenizer than .* chat template", prompt(others, places)
    )
    own = [{token: one[token]} for token, one in zip(example.ids[1:], places, strict=True)]
    refused(DataError, "own tokens alone", prompt(example, own))
    cut = [
        {token: value - np.logaddexp.reduce(list(one.values())) for token, value in one.items()}
        for one in places
    ]
    refused(DataError, "the tail, is lost", prompt(example, cut))
    raised = [{token: value + 9.0 for token, value in one.items()} for one in places]
    refused(DataError, "these are no log-probabilities", prompt(example, raised))
    beyond = [{**one, 10**6: -0.5} for one in places]
    refused(
        DataError, "token 1000000 is likely, and none of the .* another tokenizer", prompt(example, beyond)
    )
    silent = answered(example, places, lambda token: {"token": "?", "bytes": [0xFF, 0xFE, 0xFD]})
    refused(DataError, "return_tokens_as_token_ids", silent)
    refused(DataError, '"return_token_ids": true', {**silent, "prompt_token_ids": None})
    with pytest.raises(DataError, match="cannot be read"):
        label_from_files(recipe_of(kit), [tmp_path / "nothing.jsonl"], tmp_path / "labels")


def test_the_command_takes_one_teacher(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make().save(tmp_path / "recipe.yaml")
    words = ["label", str(tmp_path / "recipe.yaml"), "--logprobs", "a.jsonl"]
    for more in (["--bundle", "b"], ["--temperature", "2"]):
        assert main([*words, *more]) == 2
        assert "leave out --bundle and --temperature" in capsys.readouterr().err
