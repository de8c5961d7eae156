"""A tiny codec, and rows written and loaded with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.tiny_tokenizers import tokenizer

from ptune.codecs.chat import ChatCodec
from ptune.config.chat import Chat
from ptune.config.recipe import Data
from ptune.data.examples import dataset


@pytest.fixture(scope="module")
def codec() -> ChatCodec:
    tiny = tokenizer()
    return ChatCodec(tiny.backend_tokenizer, tiny.chat_template, tiny.special_tokens_map, (), None)


def row(question: str, answer: str = "yes") -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def load(codec, *files, seed=0, task=None, **data):
    return dataset.load(Data(files=files, **data), task or Chat(), codec, seed)


def text(number: int, words: int = 5) -> dict[str, Any]:
    return {"text": f"Document {number}. " + "word " * words}
