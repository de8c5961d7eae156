"""Tiny configs of all families of decoders that are tried: those of the tests, and more that take ways that are tested already.

from support.every_family import FAMILIES, model
model("olmo3")  # with random weights
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from transformers import PretrainedConfig

from support import tiny_models
from support.tiny_models import CONTEXT, VOCAB

_WIDE: dict[str, Any] = {
    "vocab_size": VOCAB, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "initializer_range": 0.2, "hidden_size": 64,
    "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": CONTEXT,
}  # fmt: skip
_OLD: dict[str, Any] = {**_WIDE, "intermediate_size": 128}
_TINY: dict[str, Any] = {**_OLD, "num_key_value_heads": 2}
_GPT2: dict[str, Any] = {
    **{key: _WIDE[key] for key in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id", "initializer_range")},
    "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT, "n_inner": 128,
}  # fmt: skip
_MOE: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_ROUTED: dict[str, Any] = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_LATENT: dict[str, Any] = {  # multi-head latent attention
    "q_lora_rank": 32, "kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 12,
}  # fmt: skip
_LAYERS = ["sliding_attention", "full_attention"]
_SLIDING_EXPERTS: dict[str, Any] = {
    **_WIDE, **_MOE, "num_key_value_heads": 2, "head_dim": 16, "sliding_window": 8, "shared_expert_intermediate_size": 32,
    "layer_types": _LAYERS,
}  # fmt: skip


def _of(config: str, like: dict[str, Any], **own: Any) -> Callable[..., PretrainedConfig]:
    """A config of transformers by its name, which is looked up when it is made."""

    def made(**changes: Any) -> PretrainedConfig:
        found: PretrainedConfig = getattr(transformers, config)(**{**like, **own, **changes})
        return found

    return made


MORE: dict[str, Callable[..., PretrainedConfig]] = {
    "apertus": _of("ApertusConfig", _TINY),
    "apertus1p5_text": _of("Apertus1p5TextConfig", _TINY),
    "arcee": _of("ArceeConfig", _TINY, head_dim=16),
    "aria_text": _of("AriaTextConfig", _TINY, head_dim=16, moe_num_experts=4),
    "axk1": _of("AXK1Config", _OLD, num_key_value_heads=4, **_ROUTED, n_group=1, topk_group=1, **_LATENT),
    "beam": _of(
        "BeamConfig",
        _TINY,
        head_dim=16,
        sliding_window=8,
        **_MOE,
        n_group=1,
        topk_group=1,
        layer_types=_LAYERS,
        mlp_layer_types=["dense", "sparse"],
    ),
    "biogpt": _of("BioGptConfig", _OLD),
    "bitnet": _of("BitNetConfig", _TINY),
    "codegen": _of("CodeGenConfig", _GPT2, rotary_dim=8),
    "cohere2": _of("Cohere2Config", _TINY, sliding_window=8, layer_types=_LAYERS, logit_scale=1.0),
    "cohere2_moe": _of(
        "Cohere2MoeConfig",
        _TINY,
        head_dim=16,
        sliding_window=8,
        num_experts=4,
        num_shared_experts=1,
        layer_types=_LAYERS,
        logit_scale=1.0,
    ),
    "cohere_compass_text": _of(
        "CohereCompassTextConfig",
        _TINY,
        sliding_window=8,
        layer_types=_LAYERS,
        logit_scale=1.0,
        head_dim=16,
        rope_parameters={kind: {"rope_type": "default", "rope_theta": 10_000.0} for kind in _LAYERS},
    ),
    "cwm": _of("CwmConfig", _TINY, head_dim=16, sliding_window=8),
    "deepseek_v3": _of(
        "DeepseekV3Config",
        _OLD,
        num_key_value_heads=4,
        **_ROUTED,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
        **_LATENT,
    ),
    "diffllama": _of("DiffLlamaConfig", _TINY, head_dim=16),
    "dots1": _of(
        "Dots1Config", _TINY, sliding_window=8, **_ROUTED, n_shared_experts=1, first_k_dense_replace=1
    ),
    "dory": _of(  # some of its layers run twice
        "DoryConfig",
        {**_TINY, "num_hidden_layers": 8},
        head_dim=16,
        sliding_window=8,
        layer_types=["sliding_attention", "mlp", "full_attention", "mlp"] * 2,
        n_input_layers=2,
        n_recurrent_layers=4,
        n_output_layers=2,
    ),
    "ernie4_5": _of("Ernie4_5Config", _TINY, head_dim=16),
    "ernie4_5_moe": _of("Ernie4_5_MoeConfig", _TINY, moe_num_experts=4, moe_k=2, moe_intermediate_size=32),
    "exaone": _of("ExaoneConfig", _TINY, head_dim=16),
    "exaone4": _of("Exaone4Config", _TINY, sliding_window=8, layer_types=_LAYERS),
    "exaone_moe": _of("ExaoneMoeConfig", _TINY, sliding_window=8, **_MOE, layer_types=_LAYERS),
    "flex_olmo": _of("FlexOlmoConfig", _TINY, num_experts=4, num_experts_per_tok=2),
    "flint": _of(
        "FlintConfig", _TINY, head_dim=16, sliding_window=8, **_MOE, shared_expert_intermediate_size=32
    ),
    "gemma3n_text": _of(
        "Gemma3nTextConfig",
        {},
        vocab_size=600,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.2,
        hidden_size=64,
        intermediate_size=[128, 128, 128, 128],
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=512,
        head_dim=16,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
        activation_sparsity_pattern=[0.95, 0.0, 0.0, 0.0],
        laurel_rank=8,
        hidden_size_per_layer_input=16,
        vocab_size_per_layer_input=600,
        num_kv_shared_layers=2,
    ),
    "gemma4_unified_text": _of(
        "Gemma4UnifiedTextConfig", _TINY, head_dim=16, sliding_window=8, layer_types=_LAYERS
    ),
    "glm": _of("GlmConfig", _TINY, head_dim=16),
    "glm4": _of("Glm4Config", _TINY, head_dim=16),
    "glm4_moe": _of("Glm4MoeConfig", _TINY, **_ROUTED),
    "glm4_moe_lite": _of("Glm4MoeLiteConfig", _OLD, num_key_value_heads=4, **_ROUTED, **_LATENT),
    "gpt_bigcode": _of("GPTBigCodeConfig", _GPT2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0),
    "gptj": _of("GPTJConfig", _GPT2, rotary_dim=8),
    "granite_swa": _of("GraniteSWAConfig", _TINY, sliding_window=8),
    "granitemoe_swa": _of(
        "GraniteMoeSWAConfig", _TINY, sliding_window=8, num_local_experts=4, shared_intermediate_size=32
    ),
    "granitemoeshared": _of(
        "GraniteMoeSharedConfig", _TINY, num_local_experts=4, shared_intermediate_size=32
    ),
    "helium": _of("HeliumConfig", _TINY, head_dim=16),
    "hunyuan_v1_dense": _of("HunYuanDenseV1Config", _TINY, head_dim=16),
    "hunyuan_v1_moe": _of("HunYuanMoEV1Config", _TINY, head_dim=16, num_experts=4, moe_topk=2),
    "hy_v3": _of("HYV3Config", _TINY, head_dim=16, **_MOE),
    "hyperclovax": _of("HyperCLOVAXConfig", _TINY, head_dim=16),
    "internlm3": _of("InternLM3Config", _TINY, head_dim=16),
    "iquestcoder": _of("IQuestCoderConfig", _TINY, head_dim=16),
    "jais2": _of("Jais2Config", _TINY, head_dim=16),
    "kolibri1": _of("Kolibri1Config", _SLIDING_EXPERTS),
    "laguna": _of(
        "LagunaConfig", _TINY, head_dim=16, sliding_window=8, **_MOE, shared_expert_intermediate_size=32
    ),
    "lara_mini": _of("LaraMiniConfig", _SLIDING_EXPERTS),
    "lfm3": _of(
        "Lfm3Config",
        _TINY,
        head_dim=16,
        sliding_window=8,
        conv_L_cache=3,
        layer_types=["conv", "full_attention"],
    ),
    "mellum": _of("MellumConfig", _TINY, head_dim=16, sliding_window=8, **_MOE),
    "mimo_v2_flash": _of(
        "MiMoV2FlashConfig",
        _TINY,
        head_dim=16,
        v_head_dim=12,
        sliding_window=8,
        **_ROUTED,
        layer_types=_LAYERS,
        mlp_layer_types=["dense", "sparse"],
    ),
    "minimax_m2": _of("MiniMaxM2Config", _TINY, head_dim=16, num_local_experts=4, num_experts_per_tok=2),
    "ministral": _of("MinistralConfig", _TINY, head_dim=16, sliding_window=8, layer_types=_LAYERS),
    "ministral3": _of("Ministral3Config", _TINY, head_dim=16, sliding_window=8),
    "nanochat": _of("NanoChatConfig", _TINY),
    "nemotron": _of("NemotronConfig", _TINY, head_dim=16),
    "olmo": _of("OlmoConfig", _TINY),
    "olmo3": _of("Olmo3Config", _TINY, sliding_window=8, layer_types=_LAYERS),
    "persimmon": _of("PersimmonConfig", _OLD),
    "qwen2_moe": _of("Qwen2MoeConfig", _TINY, sliding_window=8, **_MOE, shared_expert_intermediate_size=32),
    "sarvam_mla": _of("SarvamMLAConfig", _OLD, num_key_value_heads=4, **_ROUTED, **_LATENT),
    "sarvam_moe": _of("SarvamMoEConfig", _TINY, head_dim=16, **_ROUTED),
    "seed_oss": _of("SeedOssConfig", _TINY, head_dim=16),
    "solar_open": _of("SolarOpenConfig", _WIDE, num_key_value_heads=2, head_dim=16, **_ROUTED),
    "vaultgemma": _of("VaultGemmaConfig", _TINY, head_dim=16, sliding_window=8),
    "youtu": _of("YoutuConfig", _OLD, num_key_value_heads=4, **_LATENT),
}

FAMILIES: dict[str, Callable[..., PretrainedConfig]] = {**tiny_models.ALL, **MORE}


def model(family: str, *, seed: int = 0) -> transformers.PreTrainedModel:
    """A float32 model in eval mode with random weights; the same seed gives the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return transformers.AutoModelForCausalLM.from_config(FAMILIES[family](), dtype=torch.float32).eval()
