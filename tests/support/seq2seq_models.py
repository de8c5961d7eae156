"""Tiny random-weight encoder-decoders of three families, with a tokenizer that ends every text with </s>.

folder = build_seq2seq(tmp_path / "t5", "t5")
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, processors
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from support import tiny_models

_TOKENS: dict[str, Any] = {"vocab_size": tiny_models.VOCAB, "pad_token_id": 0, "eos_token_id": 2}
_BART: dict[str, Any] = {
    **_TOKENS, "d_model": 64, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "init_std": 0.2,
    "max_position_embeddings": 256, "dropout": 0.0,
}  # fmt: skip
_T5: dict[str, Any] = {
    **_TOKENS, "d_model": 64, "d_kv": 12, "d_ff": 128, "num_layers": 2, "num_heads": 4,
    "decoder_start_token_id": 0, "dropout_rate": 0.0, "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20, "initializer_factor": 1.0,
}  # fmt: skip

SEQ2SEQ: dict[str, Callable[..., PretrainedConfig]] = {
    "t5": functools.partial(transformers.T5Config, **_T5),
    "flan": functools.partial(
        transformers.T5Config, **_T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False
    ),
    "bart": functools.partial(
        transformers.BartConfig, **_BART, bos_token_id=1, decoder_start_token_id=2, forced_eos_token_id=2,
    ),
    "marian": functools.partial(
        transformers.MarianConfig, **_BART, decoder_start_token_id=0, forced_eos_token_id=2, scale_embedding=True,
        activation_function="swish",
    ),
}  # fmt: skip
WRITES: dict[str, dict[str, Any]] = {"bart": {"forced_bos_token_id": 1}, "marian": {"bad_words_ids": [[0]]}}
"""What the generation config of a family says, as the published models of it do."""


def seq2seq(family: str, *, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A float32 model in eval mode with random weights; a bias of the logits is random, too."""
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        model: PreTrainedModel = transformers.AutoModelForSeq2SeqLM.from_config(SEQ2SEQ[family](**changes))
        bias = getattr(model, "final_logits_bias", None)
        if bias is not None:
            bias.normal_(std=0.3)
        model.generation_config.update(**WRITES.get(family, {}))
        return model.float().eval()
    finally:
        torch.set_rng_state(state)


def build_seq2seq(folder: Path | str, family: str = "t5", *, seed: int = 0, **changes: Any) -> Path:
    """Writes a model folder with its tokenizer and returns it."""
    folder = Path(folder)
    seq2seq(family, seed=seed, **changes).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    (folder / "README.md").write_text(tiny_models.LICENCE_CARD, encoding="utf-8")
    return folder


def tokenizer() -> PreTrainedTokenizerFast:
    """The byte-level tokenizer of the other tiny models, with </s> behind every text."""
    backend = Tokenizer.from_str(tiny_models.tokenizer().backend_tokenizer.to_str())
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=256
    )


def give_own_head(folder: Path) -> Path:
    """Puts other weights for the head into a model folder whose config ties it to the embedding, and returns the folder."""
    weights = load_file(folder / "model.safetensors")
    embedding = next(one for name, one in weights.items() if name.endswith("shared.weight"))
    head = torch.randn(embedding.shape, generator=torch.Generator().manual_seed(5)) * embedding.std()
    save_file({**weights, "lm_head.weight": head}, folder / "model.safetensors", {"format": "pt"})
    return folder
