"""Rows to evaluate a model on, and to prove its export on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

from ptune.codecs.labels import Labels
from ptune.data.shapes.labelled import LabelledRow

Split: TypeAlias = Literal["test", "validation", "given"]


@dataclass(frozen=True)
class Held:
    """Rows that training never saw (unknown for `given` ones), and the training rows, for baselines."""

    task: str
    labels: Labels
    split: Split
    rows: Sequence[LabelledRow]
    files: list[dict[str, Any]]  # path and SHA-256 of the rows' files
    train: Sequence[LabelledRow] = ()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the rows' places and labels; equal for runs that can be compared row by row."""
        digest = hashlib.sha256()
        for row in self.rows:
            named = _names(self.labels, row.label)
            digest.update(json.dumps([row.place, named], ensure_ascii=False).encode() + b"\n")
        return digest.hexdigest()


def _names(labels: Labels, label: Any) -> Any:
    if labels.problem == "regression":
        return float(label)
    return labels.names[label] if isinstance(label, int) else [labels.names[at] for at in label]
