"""A whole bundle of a tiny random Llama with two adapters, and transformers models that say what it should compute.

The graph comes from an exporter of its own, as small as formats/signature.py allows, so that the engine is tested against
the signature and not against whatever the real exporter happens to write.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import peft
import torch
import transformers
from torch import nn
from transformers.masking_utils import AttentionMaskInterface

from ptune.codecs.chat import ChatCodec
from ptune.formats.bundle import AdapterRecord, BaseIdentity, Bundle, Graph, Manifest
from ptune.formats.signature import STEP_INPUTS, CacheLayer, Signature, Socket
from ptune.formats.whole_write import sha256_of, write_json
from support import tiny_models

ADAPTERS: dict[str, dict[str, Any]] = {
    "wide": {"r": 6, "lora_alpha": 9, "target_modules": "all-linear"},
    "narrow": {
        "r": 2,
        "lora_alpha": 3,
        "use_rslora": True,
        "target_modules": ["q_proj", "v_proj", "down_proj"],
        "rank_pattern": {r"layers\.1\.self_attn\.q_proj": 5},
        "alpha_pattern": {"down_proj": 4},
    },
}
_traced: dict[str, Any] = {}  # what attention and sockets need while the model is traced


@dataclass(frozen=True)
class TinyBundle:
    folder: Path
    models: dict[str, transformers.PreTrainedModel]  # "base" and each adapter's merged model

    def logits(self, ids: list[int], adapter: str) -> Any:
        """[tokens, vocab] float32 of transformers on merged weights."""
        with torch.no_grad():
            return self.models[adapter](torch.tensor([ids])).logits[0].numpy()

    def greedy(self, prompt: list[int], adapter: str, tokens: int) -> list[int]:
        """transformers' greedy continuation, end-of-sequence or not."""
        ids = torch.tensor([prompt])
        settings = {
            "max_new_tokens": tokens,
            "min_new_tokens": tokens,
            "do_sample": False,
            "eos_token_id": None,
        }
        found = self.models[adapter].generate(ids, attention_mask=torch.ones_like(ids), **settings)
        return found[0, len(prompt) :].tolist()


def make(folder: Path) -> TinyBundle:
    """Writes a bundle without golden vectors and without codec."""
    model = tiny_models.model("llama")
    models = {"base": model}
    records = {}
    for seed, (name, options) in enumerate(ADAPTERS.items()):
        models[name] = write_adapter(folder / "adapters" / name, model, seed=seed, **options)
        path = folder / "adapters" / name / "adapter.json"
        files = {file.name: sha256_of(file) for file in (folder / "adapters" / name).iterdir()}
        write_json(path, AdapterRecord(name=name, files=files, base="tiny").model_dump(mode="json"))
        records[name] = sha256_of(path)
    graph = folder / "graphs" / "fp32" / "model.onnx"
    exported, signature = _exported()
    graph.parent.mkdir(parents=True)
    graph.write_bytes(exported)
    Bundle(folder, None).write_manifest(  # type: ignore[arg-type]
        Manifest(
            created="2025-01-01T00:00:00+00:00",
            versions={},
            base=BaseIdentity(hash="tiny", source="tiny"),
            signature=signature,
            graphs={"fp32": Graph(profile="fp32", files={"graphs/fp32/model.onnx": sha256_of(graph)})},
            codec={},
            golden={},
            adapters=records,
        )
    )
    return TinyBundle(folder, models)


def add_codec(folder: Path, template: str) -> None:
    """Gives a bundle that `make` wrote a codec with this chat template."""
    bundle = Bundle.open(folder)
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    ChatCodec(tiny_models.tokenizer().backend_tokenizer, template, special, {2}, 512).save(bundle.codec_path)
    files = {f"codec/{file.name}": sha256_of(file) for file in bundle.codec_path.iterdir()}
    bundle.write_manifest(bundle.manifest.model_copy(update={"codec": files}))


@functools.cache
def _exported() -> tuple[bytes, Signature]:
    """The file of the base's graph, made once a process."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph" / "model.onnx"
        signature = export(tiny_models.model("llama"), path)
        return path.read_bytes(), signature


def write_adapter(
    folder: Path, model: transformers.PreTrainedModel, *, seed: int, **options: Any
) -> transformers.PreTrainedModel:
    """Saves an adapter with random factors, B too, in peft's own format; returns a merged copy of the model."""
    torch.manual_seed(seed)
    wrapped = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(task_type="CAUSAL_LM", **options))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2)
    wrapped.save_pretrained(folder)
    return wrapped.merge_and_unload().eval()


def export(model: transformers.PreTrainedModel, path: Path) -> Signature:
    """Writes the graph of a decoder under the flat-token signature."""
    model = copy.deepcopy(model)
    model.set_attn_implementation("tiny_bundle")
    sockets = []
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear) and layer is not model.get_output_embeddings():
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, _Plugged(layer, name))
            sockets.append(Socket(name=name, in_features=layer.in_features, out_features=layer.out_features))
    config = model.config
    dim = config.hidden_size // config.num_attention_heads
    cache = CacheLayer(kv_heads=config.num_key_value_heads, key_dim=dim, value_dim=dim)
    signature = Signature(
        vocab_size=config.vocab_size,
        context=config.max_position_embeddings,
        cache=(cache,) * config.num_hidden_layers,
        sockets=tuple(sockets),
    )
    example, dynamic = _example(signature)
    with contextlib.redirect_stdout(io.StringIO()):
        program = torch.onnx.export(
            _Step(model, [socket.name for socket in sockets]).eval(),
            example,
            dynamic_shapes=dynamic,
            dynamo=True,
            opset_version=20,
            verbose=False,
            input_names=[*STEP_INPUTS, *signature.past_names(), *signature.factor_names()],
            output_names=["logits", *signature.present_names()],
        )
    path.parent.mkdir(parents=True)
    onnx.save(program.model_proto, path)
    return signature


def _example(signature: Signature) -> tuple[tuple[Any, ...], dict[str, Any]]:
    rows, tokens, batch, seq, rank, free = 2, 6, 3, 4, 8, torch.export.Dim.DYNAMIC
    two = {0: free, 1: free}
    shapes: dict[str, tuple[torch.Tensor, Any]] = {
        "input_ids": (torch.zeros(rows, tokens, dtype=torch.int64), two),
        "position_ids": (torch.zeros(rows, tokens, dtype=torch.int64), two),
        "pad_indices": (torch.zeros(batch, seq, dtype=torch.int64), two),
        "unpad_indices": (torch.zeros(rows * tokens, dtype=torch.int64), {0: free}),
        "seqlens_k": (torch.zeros(batch, dtype=torch.int32), {0: free}),
        "query_seqlens": (torch.zeros(batch, dtype=torch.int32), {0: free}),
        "capacity": (torch.tensor(32, dtype=torch.int32), None),
        "logits_indices": (torch.zeros(5, dtype=torch.int64), {0: free}),
        "lora_mask": (torch.zeros(rows, tokens, rank), {**two, 2: free}),
    }
    past = [torch.zeros(batch, layer.kv_heads, 32, layer.key_dim) for layer in signature.cache for _ in "kv"]
    sizes = [(socket.in_features, socket.out_features) for socket in signature.sockets]
    factors = [torch.zeros(rows, *shape) for n, m in sizes for shape in ((n, rank), (rank, m))]
    dynamic = {name: axes for name, (_, axes) in shapes.items()}
    dynamic["past"] = [{0: free, 2: free} for _ in past]
    dynamic["factors"] = [{0: free, 2 - index % 2: free} for index in range(len(factors))]
    return (*(tensor for tensor, _ in shapes.values()), past, factors), dynamic


class _Step(nn.Module):
    def __init__(self, model: nn.Module, sockets: list[str]) -> None:
        super().__init__()
        self.model, self.sockets = model, sockets

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        pad_indices: torch.Tensor,
        unpad_indices: torch.Tensor,
        seqlens_k: torch.Tensor,
        query_seqlens: torch.Tensor,
        capacity: torch.Tensor,
        logits_indices: torch.Tensor,
        lora_mask: torch.Tensor,
        past: list[torch.Tensor],
        factors: list[torch.Tensor],
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        pairs = {name: (factors[2 * i], factors[2 * i + 1]) for i, name in enumerate(self.sockets)}
        _traced.update(
            pad_indices=pad_indices, unpad_indices=unpad_indices, lengths=(seqlens_k, capacity, query_seqlens)
        )
        _traced.update(lora_mask=lora_mask, past=past, present=[], factors=pairs)
        out = self.model(
            input_ids=input_ids, position_ids=position_ids, use_cache=False, logits_to_keep=logits_indices
        )
        return out.logits, _traced["present"]


class _Plugged(nn.Module):
    """linear(x) + ((x @ A) * lora_mask) @ B, with shapes that the tracer need not know."""

    def __init__(self, linear: nn.Linear, name: str) -> None:
        super().__init__()
        self.linear, self.name = linear, name

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = _traced["factors"][self.name]
        y, lora_mask = self.linear(x), _traced["lora_mask"]
        low = torch.onnx.ops.symbolic(
            "MatMul", [x, a], {}, dtype=x.dtype, shape=[*x.shape[:-1], lora_mask.shape[-1]]
        )
        return y + torch.onnx.ops.symbolic("MatMul", [low * lora_mask, b], {}, dtype=x.dtype, shape=y.shape)


def _attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: object,
    scaling: Any = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """GroupQueryAttention on the padded view [batch, seq]."""
    rows, heads, tokens, dim = query.shape
    batch, seq = _traced["pad_indices"].shape
    past = _traced["past"][2 * module.layer_idx : 2 * module.layer_idx + 2]
    seqlens_k, capacity, query_seqlens = _traced["lengths"]
    padded = [
        x.transpose(1, 2).reshape(rows * tokens, -1)[_traced["pad_indices"]] for x in (query, key, value)
    ]
    out, *present = torch.onnx.ops.symbolic_multi_out(
        "com.microsoft::GroupQueryAttention",
        [*padded, *past, seqlens_k, capacity, *[None] * 9, query_seqlens],
        {"num_heads": heads, "kv_num_heads": key.shape[1], "scale": float(scaling)},
        version=1,
        dtypes=[query.dtype] * 3,
        shapes=[[batch, seq, heads * dim], past[0].shape, past[1].shape],
    )
    _traced["present"] += present
    return out.reshape(batch * seq, heads * dim)[_traced["unpad_indices"]].reshape(
        rows, tokens, heads, dim
    ), None


transformers.AttentionInterface.register("tiny_bundle", _attention)
AttentionMaskInterface.register("tiny_bundle", lambda *_, **__: None)
