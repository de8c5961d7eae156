"""Loads a pretrained encoder, or the body of a causal language model, as a model that embeds texts."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from ptune.backbone.classifier import Classifier, body_identity, pad_id_of, silent
from ptune.backbone.load import (
    in_one_sentence,
    make_plain,
    plain_config,
    read_tokenizer,
    refuse_lacking,
    resolve_dtype,
    where_to_read,
)
from ptune.backbone.locate import locate
from ptune.config.recipe import Backbone
from ptune.progress import say

Pooling = Literal["mean", "cls", "last"]


class Embedder(PreTrainedModel):
    """A body with pooling of its hidden states into one vector. The body keeps its family's attribute name."""

    config_class = PretrainedConfig
    supports_gradient_checkpointing = True
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    def __init__(self, body: PreTrainedModel, pooling: Pooling, normalize: bool) -> None:
        super().__init__(body.config)
        self.base_model_prefix = body.base_model_prefix
        setattr(self, self.base_model_prefix, body)
        self.pooling, self.normalize = pooling, normalize

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        **_: Any,
    ) -> SequenceClassifierOutput:
        """`logits` [rows, width]: the vectors, of length 1 with `normalize`. Rows are padded on the right."""
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        output = self.base_model(input_ids=input_ids, attention_mask=attention_mask, **types)
        hidden: Tensor = output.last_hidden_state
        hidden = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
        vectors = pooled(hidden, attention_mask, self.pooling)
        return SequenceClassifierOutput(logits=F.normalize(vectors, dim=-1) if self.normalize else vectors)


def pooled(hidden: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """Pools hidden states [rows, seq, width] into [rows, width]. mask: [rows, seq], 1 for real tokens."""
    if pooling == "cls":
        return hidden[:, 0]
    if pooling == "last":
        last = (mask.sum(1) - 1).clamp(min=0)
        return hidden.gather(1, last[:, None, None].expand(-1, 1, hidden.shape[-1]))[:, 0]
    weights = mask[..., None].to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)


def load_embedder(
    spec: Backbone,
    pooling: Pooling,
    normalize: bool,
    *,
    device: torch.device | str | None = None,
    attention: str = "sdpa",
) -> Classifier:
    """Loads a backbone without its own pooler, as an Embedder.

    attention: as in `ptune.backbone.load.load`; device: None = the GPU if there is one.
    Raises: BackboneError where the model cannot be found or read, or lacks weights.
    """
    source = locate(spec.model)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    say(f"loading {spec.model}")
    dtype = resolve_dtype(spec, device)
    with in_one_sentence(spec.model, source), silent():
        config = plain_config(spec, source)
        config.use_cache = False  # of a causal model: nothing is ever generated
        config.pad_token_id = pad_id_of(read_tokenizer(spec, source), config)
        body, report = AutoModel.from_pretrained(
            source.path,
            config=config,
            dtype=dtype,
            attn_implementation=None if attention == "sdpa" else attention,
            output_loading_info=True,
            **where_to_read(spec, source),
        )
        make_plain(body, source)
    lacking = sorted(name for name in report["missing_keys"] if not name.startswith("pooler"))
    refuse_lacking(spec, lacking)
    if getattr(body, "pooler", None) is not None:
        body.pooler = None
    model = Embedder(body, pooling, normalize)
    model.requires_grad_(False).eval()
    return Classifier(model.to(device), body_identity(model, spec, (), source), ())
