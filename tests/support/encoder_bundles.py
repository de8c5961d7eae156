"""Tiny encoders with random weights, adapters that plain peft saved, and the bundle of both."""

from __future__ import annotations

import atexit
import functools
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from ptune.codecs.sequence import SequenceCodec
from ptune.config.recipe import Backbone
from ptune.engine.encoder import golden
from ptune.export.encoder.parts import trace_body
from ptune.export.write import write_traced
from ptune.formats.bundle import Bundle
from ptune.publish.encoder import Encoder
from ptune.publish.encoder_adapter import facts_of, install_encoder
from ptune.publish.golden import record_golden
from ptune.tasks.encoder.facts import Facts
from ptune.verify.encoder.torch_side import reference

CONTEXT = 48
WORDS = [
    "the",
    "a",
    "good",
    "bad",
    "day",
    "film",
    "was",
    "is",
    "not",
    "very",
    "paris",
    "rome",
    "anna",
    "bob",
    "in",
    "to",
    "went",
    "saw",
    ",",
    ".",
    "!",
    "?",
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = [*"bcdefghijklmnopqrstuvwxyz", *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")]
VOCABULARY = {word: index for index, word in enumerate([*SPECIAL, *WORDS, *LETTERS])}
_COMMON: dict[str, Any] = {
    "vocab_size": len(VOCABULARY), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 64, "max_position_embeddings": CONTEXT, "initializer_range": 0.2, "pad_token_id": 0,
}  # fmt: skip
_CAUSAL: dict[str, Any] = {**_COMMON, "num_key_value_heads": 2, "bos_token_id": 2, "eos_token_id": 3}
FAMILIES: dict[str, functools.partial[transformers.PretrainedConfig]] = {
    "bert": functools.partial(transformers.BertConfig, **_COMMON),
    "distilbert": functools.partial(
        transformers.DistilBertConfig, vocab_size=len(VOCABULARY), dim=32, n_layers=2, n_heads=4, hidden_dim=64,
        max_position_embeddings=CONTEXT, initializer_range=0.2, pad_token_id=0,
    ),
    "roberta": functools.partial(
        transformers.RobertaConfig, **{**_COMMON, "type_vocab_size": 1, "max_position_embeddings": CONTEXT + 1}
    ),
    "electra": functools.partial(transformers.ElectraConfig, **_COMMON, embedding_size=16),
    "albert": functools.partial(transformers.AlbertConfig, **_COMMON, embedding_size=16),
    "modernbert": functools.partial(
        transformers.ModernBertConfig, **_COMMON, local_attention=8, cls_token_id=2, sep_token_id=3,
        bos_token_id=2, eos_token_id=3,
    ),
    "mpnet": functools.partial(
        transformers.MPNetConfig, **{**_COMMON, "pad_token_id": 1, "max_position_embeddings": CONTEXT + 2}
    ),
    "deberta": functools.partial(transformers.DebertaV2Config, **_COMMON),
    "llama": functools.partial(transformers.LlamaConfig, **_CAUSAL),
    "mistral": functools.partial(transformers.MistralConfig, **_CAUSAL, sliding_window=4),
    "qwen3": functools.partial(transformers.Qwen3Config, **_CAUSAL, head_dim=8),
    "gpt2": functools.partial(
        transformers.GPT2Config, vocab_size=len(VOCABULARY), n_embd=32, n_layer=2, n_head=4, n_positions=CONTEXT,
        bos_token_id=2, eos_token_id=3, pad_token_id=0, initializer_range=0.2,
    ),
}  # fmt: skip
SENTIMENT = Facts(
    task="text-classification", base="", labels=("bad", "good", "so-so"), problem="single", max_length=16
)
NAMES = Facts(
    task="token-classification", base="", labels=("O", "B-PER", "I-PER", "B-LOC", "I-LOC"), problem="tags"
)
KINDS = {
    "text-classification": transformers.AutoModelForSequenceClassification,
    "token-classification": transformers.AutoModelForTokenClassification,
}
TEXTS = (
    "the film was good", "bad !", "anna went to paris , bob went to rome .", "not a very good day in rome",
    "is the day bad ? the day was not very bad . the film was very bad ! anna saw the bad film in paris .",
    "zebra", "bob", "a good good good good day", "anna", "paris is good , rome is bad", "very", "was it ?",
    "xyz saw anna", "to rome !", "the a the a the a", "not good , not bad",
)  # fmt: skip


def tokenizer() -> transformers.PreTrainedTokenizerFast:
    """A word-piece tokenizer that knows a few words, and letters."""
    pieces = Tokenizer(models.WordPiece(VOCABULARY, unk_token="[UNK]"))
    pieces.normalizer = normalizers.BertNormalizer(lowercase=True)
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pieces.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", VOCABULARY["[CLS]"]), ("[SEP]", VOCABULARY["[SEP]"])],
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=pieces, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_max_length=CONTEXT,
    )  # fmt: skip


def build_encoder(folder: Path, family: str = "bert", *, seed: int = 0, **changes: Any) -> Path:
    """Writes the folder of a bare encoder, as its publisher would, and returns it."""
    torch.manual_seed(seed)
    transformers.AutoModel.from_config(FAMILIES[family](**changes)).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def peft_encoder(
    base: Path, folder: Path, facts: Facts, *, seed: int = 0, note: bool = True, **options: Any
) -> Path:
    """A LoRA with random factors and a random head, saved by plain peft; with ptune.json where there is to be a `note`."""
    torch.manual_seed(seed)
    model = plain(base, facts)
    fresh = [name for name, _ in model.named_children() if name != model.base_model_prefix]
    fresh = [name for name in fresh if any(True for _ in model.get_submodule(name).parameters())]
    pooler = f"{model.base_model_prefix}.pooler"
    head = [*fresh, *([pooler] if getattr(model.base_model, "pooler", None) is not None else [])]
    kind = "SEQ_CLS" if facts.task == "text-classification" else "TOKEN_CLS"
    settings = {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": "all-linear",
        "modules_to_save": head,
        "task_type": kind,
    }
    wrapped = get_peft_model(model, LoraConfig(init_lora_weights=False, **{**settings, **options}))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.mul_(0.3)
            elif "modules_to_save" in name:
                parameter.normal_(std=0.3)
    wrapped.save_pretrained(folder)
    if note:
        base_hash = reference(Backbone(model=str(base)), facts).identity.hash
        facts.model_copy(update={"base": base_hash, "head": tuple(head)}).save(folder)
    return folder


def plain(base: Path, facts: Facts) -> transformers.PreTrainedModel:
    """What plain transformers makes of a base under a head, whose weights are random."""
    model = KINDS[facts.task].from_pretrained(base, num_labels=len(facts.labels), dtype=torch.float32)
    model.config.pad_token_id = model.config.pad_token_id or 0
    return model.eval()


def with_peft(base: Path, adapter: Path, facts: Facts) -> torch.nn.Module:
    """What plain peft makes of a base and an adapter."""
    return PeftModel.from_pretrained(plain(base, facts), str(adapter)).eval()


def encoder_bundle(
    folder: Path, base: Path, adapters: dict[str, Path], texts: tuple[str, ...] = TEXTS
) -> Bundle:
    """The bundle of an encoder with PEFT folders in it and golden vectors, not proved."""
    first = Facts.open(next(iter(adapters.values()))) if adapters else SENTIMENT
    spec = Backbone(model=str(base))
    loaded = reference(spec, first)
    bundle = write_traced(folder, trace_body(loaded.model), codec_of(loaded.model), loaded.identity)
    codec = codec_of(loaded.model)
    wanted = bundle.encoder.step_inputs()
    inputs = [{k: v for k, v in arrays(codec, text).items() if k in wanted} for text in texts]
    golden.save_inputs(inputs, folder)
    for name, adapter in adapters.items():
        facts = facts_of(adapter, bundle)
        install_encoder(bundle, adapter, name, reference(spec, facts))
    record_golden(Encoder.of_bundle(bundle, spec), bundle, threads=1)
    return Bundle.open(folder)


@dataclass(frozen=True)
class TinyEncoder:
    """A tiny BERT with two tasks, and what plain peft says of them."""

    folder: Path
    base: Path
    bundle: Bundle
    inputs: list[dict[str, np.ndarray[Any, Any]]]
    models: dict[str, torch.nn.Module]

    def expected(self, index: int, adapter: str) -> np.ndarray[Any, Any]:
        """Logits of an input by torch, alone."""
        return torch_logits(self.models[adapter], self.inputs[index])


@functools.cache
def tiny() -> TinyEncoder:
    """Made once a process: `mood` classifies, `names` tags. Tests that change the bundle copy it."""
    held = tempfile.TemporaryDirectory()
    atexit.register(held.cleanup)
    folder = Path(held.name)
    base = build_encoder(folder / "base")
    adapters = {
        "mood": peft_encoder(base, folder / "mood", SENTIMENT, seed=1),
        "names": peft_encoder(base, folder / "names", NAMES, seed=2, r=6, target_modules=["query", "dense"]),
    }
    bundle = encoder_bundle(folder / "bundle", base, adapters)
    facts = {"mood": SENTIMENT, "names": NAMES}
    models = {name: with_peft(base, adapters[name], facts[name]) for name in adapters}
    return TinyEncoder(folder, base, bundle, golden.load_inputs(bundle.folder), models)


def codec_of(model: transformers.PreTrainedModel) -> SequenceCodec:
    """The tiny tokenizer as a codec."""
    return SequenceCodec(
        Tokenizer.from_str(tokenizer().backend_tokenizer.to_str()),
        context=CONTEXT - 1,
        type_ids=getattr(model.config, "type_vocab_size", 0) > 1,
        pad_id=0,
        special_tokens={
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
            "pad_token": "[PAD]",
            "unk_token": "[UNK]",
        },
    )


def arrays(codec: SequenceCodec, text: str) -> dict[str, np.ndarray[Any, Any]]:
    """A text as the graph takes it."""
    found = codec.encode(text)
    return {"input_ids": np.array(found.ids), "token_type_ids": np.array(found.type_ids)}


def torch_logits(model: torch.nn.Module, inputs: dict[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """What torch says of one input alone: [labels] or [seq, labels]."""
    given = {name: torch.from_numpy(array)[None] for name, array in inputs.items()}
    with torch.no_grad():
        return model(**given).logits[0].numpy()


def damage(path: Path) -> None:
    """Changes one byte in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
