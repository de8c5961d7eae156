"""Data sets larger than memory: what is held does not grow with them."""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

_LOADS = """
import resource, sys
from pathlib import Path
from support.tiny_tokenizers import tokenizer
from ptune.codecs.chat import ChatCodec
from ptune.data.examples import dataset
from ptune.config.recipe import Data
from ptune.config.chat import Chat
import pyarrow.parquet
tiny = tokenizer()
codec = ChatCodec(tiny.backend_tokenizer, tiny.chat_template, tiny.special_tokens_map, (), None)
def load(path):
    data = dataset.load(Data(files=(Path(path),)), Chat(max_length=2048), codec, 0)
    assert data.train[len(data.train) // 2].targets[1] and data.validation[-1].targets[1]
    return len(data.train)
load(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
examples = load(sys.argv[2])
print(examples, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("format", "documents", "beside_text"),
    [
        ("jsonl", 3500, 0),
        ("jsonl", 1000, 300_000),
        ("json", 500, 200_000),
        ("csv", 500, 200_000),
        ("parquet", 500, 200_000),
        ("txt", 1700, 0),
    ],
)
def test_memory_does_not_grow_with_the_data(tmp_path, monkeypatch, format, documents, beside_text):  # noqa: A002
    """38 to 320 MB, all of it text to learn, or most of it a column that nobody wants, as tokenising takes long."""
    monkeypatch.setenv("PTUNE_CACHE", str(tmp_path / "cache"))
    few, many = tmp_path / f"few.{format}", tmp_path / f"many.{format}"
    # Passages of a text file are longer the longer it is, up to this size; what one takes is not what is measured.
    write(few, format, 330 if format == "txt" else 30, beside_text)
    write(many, format, documents, beside_text)
    assert many.stat().st_size > 35e6
    child = subprocess.run(
        [sys.executable, "-c", _LOADS, few, many],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert child.returncode == 0, child.stderr
    examples, grown_kib = map(int, child.stdout.split())
    assert examples > documents
    assert grown_kib < 16 << 10, f"{grown_kib} KiB for {many.stat().st_size >> 10} KiB"


def write(path: Path, format: str, documents: int, beside_text: int) -> None:  # noqa: A002
    words, chooser = [f"w{number}" for number in range(300)], random.Random(0)
    rows = [{"text": " ".join(chooser.choices(words, k=4500)) + "\n\n"} for _ in range(documents)]
    for row in rows:
        row |= {"page": "x" * beside_text} if beside_text else {}
    if format == "parquet":
        parquet.write_table(
            pyarrow.Table.from_pylist(rows), path, row_group_size=20, compression="none", use_dictionary=False
        )
    elif format == "csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, rows[0])
            table.writeheader()
            table.writerows(rows)
    elif format == "txt":
        path.write_text("".join(row["text"] for row in rows), encoding="utf-8")
    else:
        lines = list(map(json.dumps, rows))
        text = "\n".join(lines) if format == "jsonl" else "[" + ",\n".join(lines) + "]"
        path.write_text(text, encoding="utf-8")
