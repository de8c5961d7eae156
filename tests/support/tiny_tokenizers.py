"""Tiny tokenizers, trained on the fly or of a small vocabulary, and the sample conversations. Needs no torch."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

VOCAB = 600
CONTEXT = 512
SPECIAL = ("<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def wordpiece_tokenizer() -> PreTrainedTokenizerFast:
    """As BERT's: 600 tokens, uncased, [CLS] and [SEP] around texts."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_wordpiece()),
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=CONTEXT,
    )


def roberta_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level, <s> and </s> around texts and </s></s> between two."""
    backend = Tokenizer.from_str(
        _trained_bpe().replace('"<pad>"', '"<s>_"').replace('"<s>"', '"<pad>"').replace('"<s>_"', '"<s>"')
    )
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", cls_token="<s>", eos_token="</s>", sep_token="</s>", pad_token="<pad>",
        model_max_length=CONTEXT,
    )  # fmt: skip


def tokenizer() -> PreTrainedTokenizerFast:
    """A fast tokenizer of 600 tokens, ChatML template, no BOS of its own."""
    fast = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained_bpe()),
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        model_max_length=CONTEXT,
    )
    fast.chat_template = CHATML
    return fast


def conversations(count: int = 24) -> list[list[dict[str, str]]]:
    """The first sample conversations that ship with the project, one user and one short assistant message each."""
    short = [line["messages"] for line in _sample_lines() if len(line["messages"][-1]["content"]) < 160]
    return short[:count]


def write_jsonl(path: Path, rows: list[list[dict[str, str]]]) -> Path:
    """Writes conversations as a JSONL file of `messages` and returns its path."""
    path.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows), encoding="utf-8")
    return path


@functools.cache
def _trained_bpe() -> str:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    texts = [message["content"] for line in _sample_lines() for message in line["messages"]]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return bpe.to_str()


@functools.cache
def _wordpiece() -> str:
    """Of a vocabulary in a file: training one gives another each time, and with it other weights' meaning and other results."""
    vocabulary = (
        (Path(__file__).parents[1] / "fixtures" / "wordpiece.txt").read_text(encoding="utf-8").splitlines()
    )
    pieces = Tokenizer(
        models.WordPiece({piece: at for at, piece in enumerate(vocabulary)}, unk_token="[UNK]")
    )
    pieces.normalizer = normalizers.BertNormalizer(lowercase=True)
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pieces.decoder = decoders.WordPiece()
    pieces.add_special_tokens(vocabulary[:5])
    ends = [(name, pieces.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    pieces.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    return pieces.to_str()


@functools.cache
def _sample_lines() -> list[dict[str, Any]]:
    path = Path(__file__).parents[2] / "ptune" / "data" / "samples" / "devils_dictionary.train.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
