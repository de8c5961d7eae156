"""An 8B-shaped Llama in bitsandbytes' own 4-bit format, layer by layer: never more than one layer in float, 6 GB on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import plan

LLAMA_8B: dict[str, Any] = {
    "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "rope_theta": 500000.0, "tie_word_embeddings": False,
    "max_position_embeddings": 16384,
}  # fmt: skip
TINY: dict[str, Any] = LLAMA_8B | {
    "vocab_size": 512, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip


def run(work: Path, *, tiny: bool) -> dict[str, Any]:
    """Writes the model, and one of four of its layers for the profile."""
    shape = TINY if tiny else LLAMA_8B
    return {
        "bytes": build(work / "8b", shape),
        "bytes_of_four_layers": build(work / "four", shape | {"num_hidden_layers": min(4, shape["num_hidden_layers"])}),
    }  # fmt: skip


def build(folder: Path, shape: dict[str, Any]) -> int:
    """Writes the folder; all layers hold the same random weights. Returns its bytes."""
    import torch
    from safetensors.torch import save_file
    from transformers import BitsAndBytesConfig, LlamaConfig

    plan.tokenizer(folder, context=shape["max_position_embeddings"])
    settings = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16, llm_int8_skip_modules=["lm_head"],
    )  # fmt: skip
    config = LlamaConfig(
        **plan.SPECIAL, **shape, architectures=["LlamaForCausalLM"], dtype="bfloat16",
        quantization_config=settings.to_dict(),
    )  # fmt: skip
    config.save_pretrained(folder)
    files = {"ends": _ends(config)}
    layer = _layer(config)
    for number in range(config.num_hidden_layers):
        files[f"layer-{number:02d}"] = {
            f"model.layers.{number}.{name}": value for name, value in layer.items()
        }
    names: dict[str, str] = {}
    for part, tensors in files.items():
        save_file(tensors, folder / f"model-{part}.safetensors", metadata={"format": "pt"})
        names |= dict.fromkeys(tensors, f"model-{part}.safetensors")
    index = {"metadata": {}, "weight_map": names}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return sum(path.stat().st_size for path in folder.iterdir())


def random(rows: int, columns: int) -> Any:
    """Weights [rows, columns] in bfloat16, of the size that a trained layer's have."""
    import torch

    return torch.empty(rows, columns).normal_(std=columns**-0.5).bfloat16()


def _ends(config: Any) -> dict[str, Any]:
    import torch

    return {
        "model.embed_tokens.weight": random(config.vocab_size, config.hidden_size),
        "lm_head.weight": random(config.vocab_size, config.hidden_size),
        "model.norm.weight": torch.ones(config.hidden_size, dtype=torch.bfloat16),
    }


def _layer(config: Any) -> dict[str, Any]:
    """One layer's tensors, as bitsandbytes saves them."""
    import torch
    from bitsandbytes.nn import Params4bit

    width, inner = config.hidden_size, config.intermediate_size
    keys = config.num_key_value_heads * (width // config.num_attention_heads)
    shapes = {
        "self_attn.q_proj": (width, width), "self_attn.k_proj": (keys, width), "self_attn.v_proj": (keys, width),
        "self_attn.o_proj": (width, width), "mlp.gate_proj": (inner, width), "mlp.up_proj": (inner, width),
        "mlp.down_proj": (width, inner),
    }  # fmt: skip
    ones = torch.ones(width, dtype=torch.bfloat16)
    tensors = {"input_layernorm.weight": ones, "post_attention_layernorm.weight": ones.clone()}
    for name, shape in shapes.items():
        packed = Params4bit(
            random(*shape), requires_grad=False, quant_type="nf4", compress_statistics=True
        ).to("cpu")
        tensors[f"{name}.weight"] = packed.data
        for key, value in packed.quant_state.as_dict(packed=True).items():
            tensors[f"{name}.weight.{key}"] = value
    return tensors
