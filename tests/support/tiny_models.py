"""Tiny random-weight models of many families, with a small byte-level BPE trained on the fly: real code paths, no download.

from support.tiny_models import build, FAMILIES
folder = build(tmp_path / "llama", "llama")      # config.json, model.safetensors, tokenizer, chat template
folder = build_encoder(tmp_path / "bert", "bert")  # the same of an encoder, without a head
"""

from __future__ import annotations

import codecs
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PretrainedConfig
from transformers.convert_slow_tokenizer import bytes_to_unicode

# What a test of a model needs beside it; tests without one import it from its own module, which has no torch.
from support.tiny_tokenizers import CHATML as CHATML
from support.tiny_tokenizers import CONTEXT as CONTEXT
from support.tiny_tokenizers import SPECIAL as SPECIAL
from support.tiny_tokenizers import VOCAB as VOCAB
from support.tiny_tokenizers import conversations as conversations
from support.tiny_tokenizers import roberta_tokenizer as roberta_tokenizer
from support.tiny_tokenizers import tokenizer as tokenizer
from support.tiny_tokenizers import wordpiece_tokenizer as wordpiece_tokenizer
from support.tiny_tokenizers import write_jsonl as write_jsonl

LICENCE_CARD = "---\nlicense: apache-2.0\n---\nRandom weights, for tests.\n"

LLAMA3: dict[str, Any] = {  # rope of Llama 3, for contexts beyond 32
    "rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip

# Weights with this spread give logits whose standard deviation is about 1 to 3: far from uniform, so that errors show.
_SPREAD = 0.2
_TOKENS: dict[str, Any] = {
    "vocab_size": VOCAB, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "initializer_range": _SPREAD,
}  # fmt: skip
_OLD: dict[str, Any] = {
    **_TOKENS, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
}  # fmt: skip
_TINY: dict[str, Any] = {**_OLD, "num_key_value_heads": 2}
_MIXED: dict[str, Any] = {"layer_types": ["linear_attention", "full_attention"]}
_DELTA: dict[str, Any] = {  # of gated delta nets
    **_TINY, **_MIXED, "head_dim": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16,
    "linear_value_head_dim": 32, "linear_conv_kernel_dim": 4,
}  # fmt: skip
_SPACE: dict[str, Any] = {  # of state spaces, Mamba 2
    **_TINY, "mamba_d_state": 16, "mamba_n_heads": 4, "mamba_d_head": 32, "mamba_n_groups": 2, "mamba_expand": 2,
    "mamba_chunk_size": 8,
}  # fmt: skip
_KIMI: dict[str, Any] = {  # Kimi's delta attention beside latent attention, and experts
    **_OLD, **_MIXED, "num_key_value_heads": 4, "linear_head_dim": 16, "linear_num_heads": 4, "num_experts": 4,
    "num_experts_per_token": 2, "num_expert_group": 1, "topk_group": 1, "moe_intermediate_size": 32,
    "mlp_layer_types": ["dense", "sparse"], "q_lora_rank": 32, "kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8,
    "v_head_dim": 12,
}  # fmt: skip
_MAMBA: dict[str, Any] = {**_TOKENS, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 16}

FAMILIES: dict[str, Callable[..., PretrainedConfig]] = {
    "llama": functools.partial(transformers.LlamaConfig, **_TINY),
    "llama_tied": functools.partial(transformers.LlamaConfig, **_TINY, tie_word_embeddings=True),
    "mistral": functools.partial(transformers.MistralConfig, **_TINY, sliding_window=8),
    "qwen2": functools.partial(transformers.Qwen2Config, **_TINY),
    "qwen3": functools.partial(transformers.Qwen3Config, **_TINY, head_dim=16),
    "gemma": functools.partial(transformers.GemmaConfig, **_TINY, head_dim=16),
    "gemma2": functools.partial(transformers.Gemma2Config, **_TINY, head_dim=16, sliding_window=8),
    "gemma3": functools.partial(transformers.Gemma3TextConfig, **_TINY, head_dim=16, sliding_window=8),
    "phi": functools.partial(transformers.PhiConfig, **_TINY),
    "phi3": functools.partial(transformers.Phi3Config, **_TINY),
    "gpt2": functools.partial(
        transformers.GPT2Config, **_TOKENS, n_embd=64, n_layer=2, n_head=4, n_positions=CONTEXT,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    ),
    "gpt_neox": functools.partial(transformers.GPTNeoXConfig, **_OLD),
    "olmo2": functools.partial(transformers.Olmo2Config, **_TINY),
    "granite": functools.partial(transformers.GraniteConfig, **_TINY),
    "smollm3": functools.partial(transformers.SmolLM3Config, **_TINY),
    "stablelm": functools.partial(transformers.StableLmConfig, **_TINY),
    "starcoder2": functools.partial(
        transformers.Starcoder2Config, **_TINY, residual_dropout=0.0, embedding_dropout=0.0
    ),
    "cohere": functools.partial(transformers.CohereConfig, **_TINY, logit_scale=1.0),
    "opt": functools.partial(
        transformers.OPTConfig, **{k: v for k, v in _OLD.items() if k not in ("intermediate_size", "initializer_range")},
        ffn_dim=128, word_embed_proj_dim=64, init_std=_SPREAD, dropout=0.0,
    ),
}  # fmt: skip

HYBRIDS: dict[str, Callable[..., PretrainedConfig]] = {  # some of whose layers keep states in place of keys and values
    "lfm2": functools.partial(
        transformers.Lfm2Config, **{**_TINY, "num_hidden_layers": 4}, block_auto_adjust_ff_dim=False, conv_L_cache=3,
        layer_types=["conv", "full_attention", "conv", "conv"],
    ),
    "lfm2_bias": functools.partial(
        transformers.Lfm2Config, **_TINY, block_auto_adjust_ff_dim=False, conv_L_cache=4, conv_bias=True,
        layer_types=["full_attention", "conv"],
    ),
    "qwen3_5": functools.partial(transformers.Qwen3_5TextConfig, **_DELTA),
    "olmo_hybrid": functools.partial(transformers.OlmoHybridConfig, **_TINY, **_MIXED),
    "granitemoehybrid": functools.partial(
        transformers.GraniteMoeHybridConfig, **_SPACE, **_MIXED, num_local_experts=0, num_experts_per_tok=0,
        shared_intermediate_size=128,
    ),
    "bamba": functools.partial(transformers.BambaConfig, **_SPACE, attn_layer_indices=[1]),
    "falcon_h1": functools.partial(transformers.FalconH1Config, **_SPACE, mamba_d_ssm=128, head_dim=16),
    "nemotron_h": functools.partial(
        transformers.NemotronHConfig, **{**_TINY, "num_hidden_layers": 4}, head_dim=16, ssm_state_size=16, mamba_num_heads=4,
        mamba_head_dim=32, n_groups=2, chunk_size=8, layers_block_type=["linear_attention", "mlp", "full_attention", "mlp"],
    ),
    "mamba2": functools.partial(
        transformers.Mamba2Config, **_MAMBA, num_heads=4, head_dim=32, n_groups=2, expand=2, chunk_size=8
    ),
    "mamba": functools.partial(transformers.MambaConfig, **_MAMBA, time_step_rank=4),
    "falcon_mamba": functools.partial(transformers.FalconMambaConfig, **_MAMBA, time_step_rank=4),
    "jamba": functools.partial(
        transformers.JambaConfig, **_TINY, attn_layer_period=2, attn_layer_offset=1, num_experts=1, num_experts_per_tok=1,
        mamba_d_state=16, mamba_dt_rank=4,
    ),
    "zamba2": functools.partial(  # attention of two blocks in turn, each with factors of its own in each place
        transformers.Zamba2Config, **{**_TINY, "num_hidden_layers": 4, "num_key_value_heads": 4}, mamba_d_state=16, n_mamba_heads=4,
        mamba_ngroups=2, chunk_size=8, num_mem_blocks=2, use_mem_rope=True, use_shared_attention_adapter=True, adapter_rank=4,
        layers_block_type=["linear_attention", "hybrid", "hybrid", "hybrid"],
    ),
    "kimi_linear": functools.partial(transformers.KimiLinearConfig, **_KIMI),
    "bailing_hybrid": functools.partial(transformers.BailingHybridConfig, **_KIMI, head_dim=16),
}  # fmt: skip

MIXTURES: dict[str, Callable[..., PretrainedConfig]] = {  # of experts: these take adapters in attention alone
    "qwen3_moe": functools.partial(
        transformers.Qwen3MoeConfig, **_TINY, head_dim=16, moe_intermediate_size=32, num_experts=4, num_experts_per_tok=2,
        decoder_sparse_step=1,
    ),
    "mixtral": functools.partial(
        transformers.MixtralConfig, **_TINY, num_local_experts=4, num_experts_per_tok=2, sliding_window=None,
    ),
    "olmoe": functools.partial(transformers.OlmoeConfig, **_TINY, num_experts=6, num_experts_per_tok=3),
    "granitemoe": functools.partial(
        transformers.GraniteMoeConfig, **_TINY, num_local_experts=4, num_experts_per_tok=2,
    ),
    "lfm2_moe": functools.partial(
        transformers.Lfm2MoeConfig, **_TINY, moe_intermediate_size=32, num_experts=4, num_experts_per_tok=2, num_dense_layers=1,
        layer_types=["conv", "full_attention"],
    ),
    "qwen3_next": functools.partial(
        transformers.Qwen3NextConfig, **_DELTA, moe_intermediate_size=32, shared_expert_intermediate_size=32, num_experts=4,
        num_experts_per_tok=2,
    ),
    "granitemoehybrid_experts": functools.partial(
        transformers.GraniteMoeHybridConfig, **{**_SPACE, "intermediate_size": 32}, **_MIXED, num_local_experts=4,
        num_experts_per_tok=2, shared_intermediate_size=32, position_embedding_type="rope",
    ),
    "phimoe": functools.partial(  # its routers choose one expert after another
        transformers.PhimoeConfig, **_TINY, num_local_experts=4, num_experts_per_tok=2, attention_bias=True, lm_head_bias=True,
    ),
    "qwen3_5_moe_text": functools.partial(
        transformers.Qwen3_5MoeTextConfig, **{key: value for key, value in _DELTA.items() if key != "intermediate_size"},
        moe_intermediate_size=32, shared_expert_intermediate_size=32, num_experts=4, num_experts_per_tok=2,
    ),
}  # fmt: skip

ATTENTIONS: dict[str, Callable[..., PretrainedConfig]] = {  # with something of their own
    "gpt_oss": functools.partial(  # sinks; its experts take no adapters
        transformers.GptOssConfig, **{**_TINY, "intermediate_size": 32}, head_dim=16, sliding_window=8, num_local_experts=4,
        num_experts_per_tok=2,
    ),
    "minicpm3": functools.partial(  # keys wider than values
        transformers.MiniCPM3Config, **{**_TINY, "num_key_value_heads": 4}, q_lora_rank=32, kv_lora_rank=16,
        qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=12,
    ),
    "deepseek_v2": functools.partial(  # keys wider than values, turned as complex numbers
        transformers.DeepseekV2Config, **{**_TINY, "num_key_value_heads": 4}, q_lora_rank=None, kv_lora_rank=16,
        qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=12, first_k_dense_replace=2,
    ),
    "gemma4_text": functools.partial(  # heads of two widths; the last two layers attend to keys of the first two
        transformers.Gemma4TextConfig, **{**_TINY, "num_hidden_layers": 4}, head_dim=16, global_head_dim=32, sliding_window=8,
        layer_types=["sliding_attention", "full_attention"] * 2, num_kv_shared_layers=2, hidden_size_per_layer_input=16,
        vocab_size_per_layer_input=VOCAB,
    ),
}  # fmt: skip
ALL = {**FAMILIES, **MIXTURES, **HYBRIDS, **ATTENTIONS}
EXPERTS = (
    *MIXTURES,
    "gpt_oss",
    "deepseek_v2",
    "kimi_linear",
    "bailing_hybrid",
)  # decoders that take adapters in attention alone
# Layers that adapters go beside where not all linear ones can be adapted: peft refuses some of Mamba's, experts are none.
_ATTENTION = ["q_proj", "v_proj", "o_proj"]
_ADAPTED = {
    "qwen3_next": ["in_proj_qkvz", "in_proj_ba", "out_proj", *_ATTENTION],
    "granitemoehybrid_experts": ["in_proj", "out_proj", *_ATTENTION], "falcon_h1": ["in_proj", "down_proj", *_ATTENTION],
    "nemotron_h": ["in_proj", "up_proj", *_ATTENTION], "mamba2": ["in_proj"], "mamba": ["in_proj", "x_proj"],
    "falcon_mamba": ["in_proj", "x_proj"], "jamba": ["in_proj", "x_proj", "out_proj", *_ATTENTION],
}  # fmt: skip

_ENCODER: dict[str, Any] = {
    "vocab_size": VOCAB, "pad_token_id": 0, "initializer_range": _SPREAD, "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 4,
}  # fmt: skip
ENCODERS: dict[str, Callable[..., PretrainedConfig]] = {
    "bert": functools.partial(transformers.BertConfig, **_ENCODER, max_position_embeddings=CONTEXT),
    "distilbert": functools.partial(
        transformers.DistilBertConfig, vocab_size=VOCAB, pad_token_id=0, initializer_range=_SPREAD, dim=64, hidden_dim=128,
        n_layers=2, n_heads=4, max_position_embeddings=CONTEXT,
    ),
    "roberta": functools.partial(
        transformers.RobertaConfig, **{**_ENCODER, "pad_token_id": 1}, bos_token_id=0, eos_token_id=2, type_vocab_size=1,
        max_position_embeddings=CONTEXT + 2,
    ),
}  # fmt: skip


def build(folder: Path | str, architecture: str = "llama", *, seed: int = 0, **changes: Any) -> Path:
    """Writes a model folder and returns it. `changes` override the family's config, e.g. num_hidden_layers=4."""
    folder = Path(folder)
    model(architecture, seed=seed, **changes).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    (folder / "README.md").write_text(LICENCE_CARD, encoding="utf-8")
    return folder


def model(architecture: str = "llama", *, seed: int = 0, **changes: Any) -> transformers.PreTrainedModel:
    """A float32 model in eval mode with random weights; the same seed gives the same weights."""
    config = ALL[architecture](**changes)
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    finally:
        torch.set_rng_state(state)


def adapted(architecture: str) -> str | list[str]:
    """The `target_modules` of an adapter on all that it can be on."""
    return _ADAPTED.get(architecture, _ATTENTION if architecture in EXPERTS else "all-linear")


def in_four_bits(folder: Path) -> Path:
    """Makes a decoder's weights what GGUF's Q4_1 leaves of them, and of its head Q8_0; written in float32."""
    from gguf import GGMLQuantizationType, quants
    from safetensors.numpy import load_file, save_file

    file = folder / "model.safetensors"
    tensors = load_file(file)
    for name, weight in tensors.items():
        if weight.ndim == 2 and "embed" not in name and weight.shape[1] % 32 == 0:
            kind = GGMLQuantizationType.Q8_0 if "head" in name else GGMLQuantizationType.Q4_1
            tensors[name] = quants.dequantize(quants.quantize(weight, kind), kind)
    save_file(tensors, file, metadata={"format": "pt"})
    return folder


def build_encoder(
    folder: Path | str, architecture: str = "bert", *, seed: int = 0, pooler: bool = True, **changes: Any
) -> Path:
    """Writes a bare encoder with its tokenizer and returns the folder. pooler: of those that can have one."""
    folder, config = Path(folder), ENCODERS[architecture](**changes)
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        kind = transformers.MODEL_MAPPING[type(config)]
        options = {} if architecture == "distilbert" else {"add_pooling_layer": pooler}
        kind(config, **options).float().save_pretrained(folder)
    finally:
        torch.set_rng_state(state)
    (roberta_tokenizer() if architecture == "roberta" else wordpiece_tokenizer()).save_pretrained(folder)
    (folder / "README.md").write_text(LICENCE_CARD, encoding="utf-8")
    return folder


def decoded(ids: Sequence[int]) -> str:
    """What transformers decodes, but for a character that the last tokens do not complete."""
    tiny, byte_of = tokenizer(), {spelled: byte for byte, spelled in bytes_to_unicode().items()}
    shown = [token for token in ids if token not in tiny.all_special_ids]
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(bytes(byte_of[each] for token in tiny.convert_ids_to_tokens(shown) for each in token))
    text: str = tiny.decode(ids, skip_special_tokens=True)
    return text.removesuffix("\ufffd") if decoder.getstate()[0] else text
