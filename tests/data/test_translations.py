"""Rows of source and target become conversations, of every format, whose target alone is learned."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow
import pytest
from data.conftest import codec, load
from pyarrow import parquet

from ptune.config.chat import Chat
from ptune.config.columns import TranslationColumns
from ptune.config.translation import Translation
from ptune.errors import DataError
from ptune.tasks.chat.recipe_codec import codec_for

__all__ = ["codec"]
PAIRS = [
    ("The file is open.", "El archivo está abierto."),
    ("Press Enter.", "Pulse Intro."),
    ("Open", "Abrir"),
]
TASK = Translation(
    columns=TranslationColumns(source="en", target="es"), source_language="en", target_language="es"
)


def jsonl(path: Path) -> Path:
    path.write_text("".join(json.dumps({"en": en, "es": es, "page": 1}) + "\n" for en, es in PAIRS))
    return path


def of_csv(path: Path) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("en", "es"), *PAIRS])
    return path


def of_parquet(path: Path) -> Path:
    parquet.write_table(
        pyarrow.table(dict(zip(("en", "es"), map(list, zip(*PAIRS, strict=True)), strict=True))), path
    )
    return path


def po(path: Path) -> Path:
    head = 'msgid ""\nmsgstr "Content-Type: text/plain; charset=UTF-8\\n"\n'
    path.write_text(
        head + "".join(f'\nmsgid "{en}"\nmsgstr "{es}"\n' for en, es in PAIRS) + '\nmsgid "new"\nmsgstr ""\n'
    )
    return path


def tmx(path: Path) -> Path:
    unit = '<tu><tuv xml:lang="en-US"><seg>{}</seg></tuv><tuv xml:lang="es-ES"><seg>{}</seg></tuv></tu>'
    path.write_text(f"<tmx><body>{''.join(unit.format(*pair) for pair in PAIRS)}</body></tmx>")
    return path


@pytest.mark.parametrize(
    ("made", "suffix"), [(jsonl, "jsonl"), (of_csv, "csv"), (of_parquet, "parquet"), (po, "po"), (tmx, "tmx")]
)
def test_every_format_gives_the_same_examples(tmp_path, codec, made, suffix, capsys):
    told = codec_for(TASK, codec)
    data = load(told, made(tmp_path / f"x.{suffix}"), task=TASK, validation=(jsonl(tmp_path / "y.jsonl"),))
    assert [tuple(example.ids) for example in data.train] == [
        tuple(example.ids) for example in data.validation
    ]
    for example, (en, es) in zip(data.train, PAIRS, strict=True):
        learned = [token for token, target in zip(example.ids, example.targets, strict=True) if target]
        assert told.decode(learned) == es
        before = told.spell(example.ids[: list(example.targets).index(True)])
        assert before.count(en) == 1
        assert "Translate from English into Spanish." in before
    said = " ".join(capsys.readouterr().err.split())
    assert ("left out: 1 untranslated" in said) == (suffix == "po")
    assert data.summary["files"][0].get("left_out") == ({"untranslated": 1} if suffix == "po" else None)


def test_it_is_the_conversation_that_chat_would_train_on(tmp_path, codec):
    """With the instruction as the system message: so the adapter can be asked as chat, too."""
    rows = [
        {"messages": [{"role": "user", "content": en}, {"role": "assistant", "content": es}]}
        for en, es in PAIRS
    ]
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    chat = Chat(system=TASK.instruction)
    as_chat = load(codec_for(chat, codec), tmp_path / "chat.jsonl", task=chat)
    translated = load(codec_for(TASK, codec), jsonl(tmp_path / "x.jsonl"), task=TASK)
    assert [tuple(one.ids) for one in as_chat.train] == [tuple(one.ids) for one in translated.train]
    assert [tuple(one.targets) for one in as_chat.train] == [tuple(one.targets) for one in translated.train]


def test_columns_that_are_not_there(tmp_path, codec):
    with pytest.raises(DataError, match=r"columns are en, es, page; known are source \+ target"):
        load(codec, jsonl(tmp_path / "x.jsonl"), task=Translation())


def test_a_row_without_a_side_is_refused(tmp_path, codec):
    (tmp_path / "x.jsonl").write_text(
        '{"en": "a", "es": "b"}\n{"en": "c", "es": null}\n{"en": "c", "es": 3}\n'
    )
    with pytest.raises(DataError, match="2 of 3 lines"):
        load(codec, tmp_path / "x.jsonl", task=TASK)


@pytest.mark.parametrize(
    ("fields", "instruction"),
    [
        ({}, "Translate."),
        ({"target_language": "de"}, "Translate into German."),
        ({"source_language": "EN", "target_language": "tlh"}, "Translate from English into tlh."),
        ({"target_language": "de", "system": "Deutsch!"}, "Deutsch!"),
    ],
)
def test_the_instruction(fields, instruction):
    assert Translation(**fields).instruction == instruction


def test_one_column_cannot_be_both():
    with pytest.raises(ValueError, match="same column"):
        TranslationColumns(source="en", target="EN")


def test_all_targets_of_a_source_are_held_out_together(tmp_path, codec):
    rows = [{"en": f"{number % 30}!", "es": f"¡{number}!"} for number in range(120)]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = load(codec_for(TASK, codec), tmp_path / "x.jsonl", task=TASK, validation=())
    asked = [
        {tuple(one.ids[: list(one.targets).index(True)]) for one in part}
        for part in (data.train, data.validation)
    ]
    assert asked[0].isdisjoint(asked[1])
    assert (len(data.train), len(data.validation)) == (108, 12)
