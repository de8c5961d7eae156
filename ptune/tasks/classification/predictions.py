"""Predictions of a finished run in torch: the reference that everything else is compared with."""

from __future__ import annotations

import torch

from ptune.formats.run import Run
from ptune.tasks.encoder.facts import Facts
from ptune.tasks.encoder.predictions import Predictor, text_predictor


def predictor(run: Run, device: torch.device | str | None = None) -> Predictor:
    """The predictor of a run's model. Raises: FormatError if nothing was trained yet; BackboneError."""
    if Facts.of_run(run).preprocessing is None:
        return text_predictor(run, device)
    from ptune.tasks.classification.image_predictions import image_predictor

    return image_predictor(run, device)
