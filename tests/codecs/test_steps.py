"""An answer is split into steps and encoded as TRL does it, up to the tokens that its tokenizer puts around any text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import tiny_models
from support.libraries import printed_with
from tokenizers import Tokenizer

from ptune.codecs.sequence import SequenceCodec
from ptune.codecs.steps import split

# The last release with the trainer in it is not the newest one.
TRL = "trl==1.8.0"
TOKENIZE = """
import json, sys
from transformers import AutoTokenizer
from trl.experimental.prm import PRMTrainer
asked = json.load(sys.stdin)
tokenizer = AutoTokenizer.from_pretrained(asked["model"])
settings = {"max_completion_length": None, "train_on_last_step_only": False, "is_eval": False}
print(json.dumps([
    PRMTrainer.tokenize_row(row, tokenizer, separator, max_length, **settings)
    for row in asked["rows"] for separator, max_length in asked["settings"]
]))
"""
ROWS: list[dict[str, Any]] = [
    {
        "prompt": "What is love?",
        "completions": ["A war.", "  Not virtue", "no"],
        "labels": [True, False, True],
    },
    {"prompt": "Why\nnot, <|x|>?", "completions": ["Über 7 und 8 = 15 ☂"], "labels": [False]},
]
SETTINGS = [("\n", None), ("\n\n", None), (" ки", None), ("\n", 12)]


@given(st.lists(st.text("ab .\n", max_size=6), max_size=6), st.sampled_from(["\n", "\n\n", "ab"]))
def test_spans_are_the_parts_between_separators_that_are_not_blank(parts: list[str], separator: str) -> None:
    answer = separator.join(parts)
    spans = split(answer, separator)
    assert [answer[begin:end] for begin, end in spans] == [
        part for part in answer.split(separator) if part.strip()
    ]
    assert all(separator not in answer[begin:end] for begin, end in spans)
    assert spans == sorted(spans)


@pytest.fixture(scope="module", params=["bert", "llama"])
def codec(request: Any, tmp_path_factory: pytest.TempPathFactory) -> SequenceCodec:
    from ptune.backbone.classifier import load_sequence_codec
    from ptune.config.recipe import Backbone

    folder = tmp_path_factory.mktemp("model") / request.param
    if request.param == "bert":
        tiny_models.build_encoder(folder, "bert")
    else:
        tiny_models.build(folder, "llama")
    return load_sequence_codec(Backbone(model=str(folder)))


def alone(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


@pytest.mark.parametrize("limit", [None, 14, 9, 4])
def test_each_part_is_encoded_by_itself_and_a_step_ends_at_its_last_token(
    codec: SequenceCodec, limit: int | None
) -> None:
    steps = ["love and war", "a virtue", "no"]
    ids, ends = alone(codec.tokenizer, "what is love"), []
    for step in steps:
        ids += alone(codec.tokenizer, step) + alone(codec.tokenizer, ";")
        ends.append(len(ids) - 1)
    around = codec.encode("love")
    own = alone(codec.tokenizer, "love")
    before = around.ids.index(own[0])
    after = len(around.ids) - before - len(own)
    around_before = list(around.ids[:before])
    if not before and "bos_token" in codec.special_tokens:
        around_before = [
            at for at in [codec.tokenizer.token_to_id(codec.special_tokens["bos_token"])] if at is not None
        ]
    room = len(ids) if limit is None else limit - len(around_before) - after
    found = codec.encode_steps("what is love", steps, ";", limit)
    assert found.ids == (*around_before, *ids[:room], *around.ids[len(around.ids) - after :])
    assert found.first == tuple(len(around_before) + end if end < room else None for end in ends)
    assert found.length == len(around_before) + len(ids) + after
    assert found.truncated == (limit is not None and found.length > limit)


def test_a_step_that_leaves_no_token_gets_one(tmp_path: Path) -> None:
    from ptune.backbone.classifier import load_sequence_codec
    from ptune.config.recipe import Backbone

    tiny_models.build_encoder(tmp_path / "bert", "bert")
    codec = load_sequence_codec(Backbone(model=str(tmp_path / "bert")))
    found = codec.encode_steps("love", ["\N{ZERO WIDTH SPACE}", "war"], "\n")
    assert len(set(found.first)) == 2
    assert None not in found.first


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_tokens_and_labels_are_those_of_trl(kind: str, tmp_path: Path) -> None:
    from ptune.backbone.classifier import load_sequence_codec
    from ptune.config.recipe import Backbone

    folder = tmp_path / kind
    if kind == "bert":
        tiny_models.build_encoder(folder, "bert")
    else:
        tiny_models.build(folder, "llama")
    codec = load_sequence_codec(Backbone(model=str(folder)))
    asked = {"model": str(folder), "rows": ROWS, "settings": SETTINGS}
    theirs = iter(printed_with([TRL], TOKENIZE, asked, tmp_path / "trl"))
    for row in ROWS:
        for separator, limit in SETTINGS:
            expected = next(theirs)
            own = ("[CLS]", "[SEP]") if kind == "bert" else ()  # TRL puts no token but BOS around a text
            most = None if limit is None else limit + len(own)
            found = codec.encode_steps(row["prompt"], row["completions"], separator, most)
            inside = slice(1, -1) if own else slice(None)
            labels = [-100] * len(found.ids)
            for at, verdict in zip(found.first, row["labels"], strict=True):
                if at is not None:
                    labels[at] = int(verdict)
            assert list(found.ids[inside]) == expected["input_ids"]
            assert labels[inside] == expected["labels"]
