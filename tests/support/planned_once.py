"""Predicting a training's memory takes longer than training a tiny model: in a session, trainings of one shape are predicted once.

The key is everything that a prediction reads: the model's config and files, the method, the largest rows, and of `train` all but
what only says how long and how fast it learns. Kept on disk, for all processes of a session, those that `forked` starts too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import torch

from ptune.config.recipe import Recipe
from ptune.formats.whole_write import read_json, write_json
from ptune.planning import prediction, preflight
from ptune.planning.files import Described
from ptune.planning.memory_ledger import Ledger
from ptune.planning.prediction import Device, largest

FOLDER = Path(os.environ["PTUNE_TESTS_MADE"]) / "predicted"
OF_LEARNING = {
    "epochs", "max_steps", "min_steps", "lr", "schedule", "warmup", "decay", "rollbacks", "validate_every", "save_every",
    "keep_checkpoints", "patience", "tracker", "seed",
}  # fmt: skip
fresh = prediction.predict


def use() -> None:
    """Lets every training of this process be predicted once."""
    preflight.predict = predict  # type: ignore[assignment, attr-defined]


def predict(
    recipe: Recipe,
    lengths: Sequence[int] | None = None,
    *,
    validation: Sequence[int] | None = None,
    device: Device | None = None,
    described: Described,
) -> Ledger:
    """As `ptune.planning.prediction.predict`."""
    rows = [largest(recipe, lengths, validation, packed=packed) for packed in (True, False)]
    path = FOLDER / f"{sha256(said(recipe, described, rows, device).encode()).hexdigest()}.json"
    if not path.is_file():
        ledger = fresh(recipe, lengths, validation=validation, device=device, described=described)
        write_json(path, asdict(ledger))
    return Ledger(**read_json(path))


def said(recipe: Recipe, described: Described, *more: object) -> str:
    """All that a prediction may depend on, in words."""
    train = recipe.train.model_dump(mode="json", exclude=OF_LEARNING)
    backbone = recipe.backbone.model_dump(mode="json", exclude={"model"})
    config = described.config.to_dict() | {"_name_or_path": ""}
    files = (described.kind, described.file_bytes, str(described.dtype))
    own = (type(described.config).__name__, torch.get_default_dtype(), torch.get_num_threads())
    return json.dumps(
        [backbone, recipe.method.model_dump(mode="json"), train, config, files, own, more],
        sort_keys=True,
        default=repr,
    )
