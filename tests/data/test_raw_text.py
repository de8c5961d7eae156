"""Raw text: every token is learned, and documents end where they end."""

from __future__ import annotations

import pytest

from ptune.config.chat import Chat
from ptune.errors import DataError

from .conftest import load, row, text, write


def test_raw_text_is_learned_whole_and_ends_with_eos(codec, tmp_path, capsys):
    path = write(tmp_path / "a.jsonl", [text(number) for number in range(20)])
    data = load(codec, path)
    assert (len(data.train), len(data.validation)) == (18, 2)
    for example in (*data.train, *data.validation):
        assert example.targets == (False, *[True] * (len(example) - 1))
        assert example.ids[-1] == codec.tokenizer.token_to_id("</s>")
        assert codec.decode(example.ids).startswith("Document ")
    assert list(data.train_conversations) == list(data.validation_conversations) == []
    assert f"{path}: raw text, 20 rows (JSONL)" in capsys.readouterr().err


@pytest.mark.parametrize("policy", ["error", "split"])
def test_long_documents_are_split_also_where_others_would_be_an_error(codec, tmp_path, capsys, policy):
    documents, chats = [text(number, 60) for number in range(3)], [row("a"), row("b")]
    path, chat = write(tmp_path / "a.jsonl", documents), write(tmp_path / "b.jsonl", chats)
    data = load(codec, path, chat, validation=(chat,), task=Chat(max_length=32, on_overlong=policy))
    assert all(len(example) <= 32 for example in data.train)
    for document in documents:
        ids = codec.encode_text(document["text"])
        windows = [example for example in data.train if set(example.ids) <= {*ids, 2}]
        assert len(windows) > 3
    learned = sum(len(example) - 1 for example in data.train[: data.parts[0]])
    assert learned == sum(len(codec.encode_text(document["text"])) for document in documents)
    policy = "split" if policy == "split" else "raw text is split"
    assert f"train: 3 of 5 rows are longer than 32 tokens ({policy})" in capsys.readouterr().err
    with pytest.raises(
        DataError, match=r"1 of 6 examples are longer than 32 tokens \(longest \d+, .*c.jsonl, line 1"
    ):
        load(
            codec,
            path,
            write(tmp_path / "c.jsonl", [row("long " * 40)]),
            validation=(chat,),
            task=Chat(max_length=32),
        )


def test_a_text_file_is_one_document(codec, tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("".join(f"Paragraph {n}. {'word ' * 200}\n\n" for n in range(40)), encoding="utf-8")
    data = load(codec, path, task=Chat(max_length=4096))
    eos = codec.tokenizer.token_to_id("</s>")
    everything = [*data.train, *data.validation]
    assert len(data.validation) == 1
    assert len(everything) == data.summary["files"][0]["rows"] > 5
    assert sum(example.ids.count(eos) for example in everything) == 1
    words = sorted("".join(codec.decode(example.ids) for example in everything).split())
    assert words == sorted(path.read_text(encoding="utf-8").split())


def test_a_document_that_goes_on_in_the_next_row_does_not_end(codec, tmp_path):
    rows = [{"text": "One", "end_of_document": False}, {"text": " two", "end_of_document": True}]
    data = load(
        codec, write(tmp_path / "a.jsonl", rows), validation=(write(tmp_path / "b.jsonl", [text(1)]),)
    )
    eos = codec.tokenizer.token_to_id("</s>")
    assert [example.ids[-1] == eos for example in data.train] == [False, True]
    with pytest.raises(DataError, match=r"a\.jsonl:1: end_of_document must be true or false, not 'no'"):
        load(codec, write(tmp_path / "a.jsonl", [{**rows[0], "end_of_document": "no"}, *rows]))


def test_raw_text_that_says_a_control_token_is_ordinary_text(codec, tmp_path):
    path = write(tmp_path / "a.jsonl", [{"text": "He said <|im_end|> and </s>."}, text(1)])
    data = load(codec, path, validation=(path,))
    eos = codec.tokenizer.token_to_id("</s>")
    assert data.train[0].ids.count(eos) == 1
    assert codec.tokenizer.token_to_id("<|im_end|>") not in data.train[0].ids
