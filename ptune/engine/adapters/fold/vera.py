"""VeRA (Kopiczko et al. 2024, https://arxiv.org/abs/2310.11454): diag(b) B diag(d) A, with random A and B that all layers share.

PVeRA draws activations from a normal distribution in training, and takes its mean when it answers.
"""

from __future__ import annotations

from ptune.engine.adapters.fold.layer import SAFE, Factor, Layer, LayerError, Update, sliced
from ptune.engine.adapters.peft_config import LoraConfig

LOST = f"its random projections are not in the file: {SAFE} and save_projection=True"


class PveraConfig(LoraConfig):
    """sample_at_inference: draws when it answers, too."""

    sample_at_inference: bool = False


def fold(layer: Layer[LoraConfig]) -> Update:
    if "vera_A" not in layer.shared or "vera_B" not in layer.shared:
        raise LayerError(LOST)
    rank = layer.rank
    return _scaled(
        sliced(layer, "vera_A", rank, layer.inner),
        layer.tensor("vera_lambda_d", rank),
        sliced(layer, "vera_B", layer.outer, rank),
        layer.tensor("vera_lambda_b", layer.outer),
    )


def fold_pvera(layer: Layer[PveraConfig]) -> Update:
    """The first half of A and d make the mean, the second the variance."""
    if "pvera_A" not in layer.shared or "pvera_B" not in layer.shared:
        raise LayerError(LOST)
    if layer.config.sample_at_inference:
        raise LayerError("sample_at_inference is set: its answers are drawn at random")
    rank = layer.rank
    return _scaled(
        sliced(layer, "pvera_A", 2 * rank, layer.inner)[:rank],
        layer.tensor("pvera_lambda_d", 2 * rank)[:rank],
        sliced(layer, "pvera_B", layer.outer, rank),
        layer.tensor("pvera_lambda_b", layer.outer),
    )


def _scaled(a: Factor, d: Factor, b: Factor, by_row: Factor) -> Update:
    return Update(a * d[:, None], b * by_row[:, None])
