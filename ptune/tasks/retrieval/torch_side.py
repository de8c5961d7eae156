"""Vectors and scores in torch: the reference that everything else is compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from peft import PeftModel
from torch import nn

from ptune.backbone.classifier import load_sequence_codec
from ptune.backbone.embedder import load_embedder
from ptune.codecs.sequence import SequenceCodec
from ptune.config.recipe import Backbone, Recipe
from ptune.formats.run import Run
from ptune.formats.task_names import FEATURE_EXTRACTION
from ptune.tasks.encoder.facts import Facts
from ptune.tasks.retrieval.train import padded_texts
from ptune.training.rows.padding import padded_rows

Vectors = npt.NDArray[np.float32]
_BATCH_TOKENS = 4096


def load_embeddings(
    run: Run, device: torch.device | str | None = None, *, trained: bool = True
) -> TorchVectors:
    """The trained model of an embedding run, or its base if not `trained`. Raises: FormatError, BackboneError."""
    facts, recipe = Facts.of_run(run), Recipe.load(run.recipe_path)
    assert facts.embedding is not None
    whole = trained and not run.has_adapter
    backbone = recipe.backbone.saved_at(run.model_path) if whole else recipe.backbone
    backbone = backbone.model_copy(update={"dtype": run.record().base.dtype})
    vector_facts = facts.embedding
    loaded = load_embedder(backbone, vector_facts["pooling"], vector_facts["normalize"], device=device)
    facts.check_base(run, loaded.identity)
    model: nn.Module = loaded.model
    if trained and run.has_adapter:
        model = PeftModel.from_pretrained(model, str(run.adapter_path))
    return TorchVectors(model.eval(), SequenceCodec.open(run.codec_path), facts)


@dataclass(frozen=True)
class TorchVectors:
    """Texts -> vectors [texts, width]. Texts of similar length share a forward pass."""

    model: nn.Module
    codec: SequenceCodec
    facts: Facts

    @torch.no_grad()
    def __call__(self, texts: Sequence[str], tell: Callable[[int], object] = lambda _: None) -> Vectors:
        device = next(self.model.parameters()).device
        ids = [self.codec.encode(text, max_length=self.facts.max_length).ids for text in texts]
        assert self.facts.embedding is not None
        vectors = np.zeros((len(ids), self.facts.embedding["width"]), np.float32)
        for rows in padded_rows([len(one) for one in ids], _BATCH_TOKENS):
            part = [ids[row] for row in rows]
            inputs = padded_texts(part, self.codec.pad_id, self.codec.type_ids, device)
            vectors[rows] = self.model(**inputs).logits.float().cpu().numpy()
            tell(len(rows))
        return vectors


def pretrained(model: str, max_length: int = 256) -> TorchVectors:
    """An untrained backbone with mean pooling of its last hidden states. Raises: BackboneError."""
    spec = Backbone(model=model)
    loaded = load_embedder(spec, "mean", True)
    facts = Facts(
        task=FEATURE_EXTRACTION,
        base=loaded.identity.hash,
        labels=(),
        problem="vector",
        max_length=max_length,
        embedding={"width": loaded.model.config.get_text_config().hidden_size},
    )
    return TorchVectors(loaded.model, load_sequence_codec(spec), facts)
