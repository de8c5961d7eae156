"""Tiny classifiers for tests of evaluation: a random BERT, made-up reviews whose words give the label away, and short runs."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from ptune.config.classification import TextClassification, TokenClassification
from ptune.config.recipe import Backbone, Data, Recipe, Train
from ptune.fine_tune import train
from ptune.formats.run import Run
from ptune.methods.lora import Lora

GOOD, BAD, PLAIN = (
    ("lovely", "great", "fine"),
    ("awful", "poor", "sad"),
    ("room", "food", "the", "was", "a", "trip"),
)
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PLACES = ("paris", "rome")


def encoder(folder: Path) -> Path:
    """A BERT of random weights that knows a word a token."""
    vocabulary = {word: at for at, word in enumerate((*SPECIAL, *GOOD, *BAD, *PLAIN, *PLACES))}
    words = Tokenizer(models.WordLevel(vocabulary, "[UNK]"))
    words.normalizer, words.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.BertPreTokenizer()
    words.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = dict(zip(("pad", "unk", "cls", "sep", "mask"), SPECIAL, strict=True))
    special = {f"{name}_token": token for name, token in names.items()}
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64, initializer_range=0.1,
    )  # fmt: skip
    BertModel(config).eval().save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=64, **special).save_pretrained(folder)
    return folder


def reviews(count: int, first: int = 0) -> list[dict[str, Any]]:
    """`text`, `label` and a column beside, no text twice; one row in ten has the other label."""
    chance, rows = random.Random(0), dict[str, dict[str, Any]]()
    while len(rows) < first + count:
        good = chance.random() < 0.5
        words = [*chance.choices(PLAIN, k=chance.randint(3, 8)), chance.choice(GOOD if good else BAD)]
        chance.shuffle(words)
        label, text = good if chance.random() < 0.9 else not good, " ".join(words)
        rows[text] = {"text": text, "label": "good" if label else "bad", "from": chance.choice("ab")}
    return list(rows.values())[first : first + count]


def tagged(count: int, first: int = 0) -> list[dict[str, Any]]:
    """`tokens` and `tags`: names of places; no row twice."""
    chance, rows = random.Random(0), dict[tuple[str, ...], dict[str, Any]]()
    while len(rows) < first + count:
        words = chance.choices((*PLAIN, *PLACES), k=chance.randint(4, 8))
        tags = ["B-PLACE" if word in PLACES else "O" for word in words]
        rows[tuple(words)] = {"tokens": words, "tags": tags}
    return list(rows.values())[first : first + count]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def trained(folder: Path, kind: str = "text", name: str = "run", **changes: Any) -> Run:
    """A finished run in folder/NAME; `changes` override the recipe's fields."""
    model = folder / "model" if (folder / "model").is_dir() else encoder(folder / "model")
    made = reviews if kind == "text" else tagged
    for split, count, first in (("train", 160, 0), ("test", 60, 160)):
        if not (folder / f"{kind}.{split}.jsonl").is_file():
            write(folder / f"{kind}.{split}.jsonl", made(count, first))
    recipe = Recipe(
        name=name,
        task=TextClassification() if kind == "text" else TokenClassification(),
        backbone=Backbone(model=str(model)),
        method=Lora(r=16, alpha=32),
        data=Data(files=(folder / f"{kind}.train.jsonl",), test=(folder / f"{kind}.test.jsonl",)),
        train=Train(epochs=6, lr=5e-3, batch_size=16, validate_every=16),
    )
    return train(recipe.model_copy(update=changes), folder / name)
