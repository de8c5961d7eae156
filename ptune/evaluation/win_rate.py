"""How often a reward model prefers the tuned model's answers to the base's: a win rate on held-out prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ptune.config.reward_model import REWARD
from ptune.data.shapes.conversations import Askable
from ptune.data.shapes.rewards import prompt_text
from ptune.errors import UsageError
from ptune.evaluation.between import with_interval
from ptune.evaluation.classification.bootstrap import means
from ptune.evaluation.retrieval.rankers import served_outputs
from ptune.formats.bundle import Bundle
from ptune.progress import Progress


@dataclass(frozen=True)
class Judge:
    """A reward model in a bundle."""

    folder: Path
    adapter: str

    @classmethod
    def open(cls, folder: Path) -> Judge:
        """The only reward model of a bundle. Raises: FormatError if there is no bundle; UsageError for none or several."""
        bundle = Bundle.open(folder)
        names = [name for name in bundle.manifest.adapters if bundle.adapter(name).labels == (REWARD,)]
        if len(names) != 1:
            has = "no reward model" if not names else f"several: {', '.join(names)}"
            raise UsageError(
                f"--reward-model {folder}: a bundle with one reward model is needed, it has {has}"
            )
        return cls(folder, names[0])

    def compared(
        self, asked: Sequence[Askable], base: Sequence[str], tuned: Sequence[str], threads: int | None
    ) -> dict[str, Any]:
        """What the judge says of the answers, each with a 95 % interval (bootstrap over prompts; exact where no two are equal), in JSON types.

        win_rate: share of prompts whose tuned answer has the higher reward; of equal ones a half counts. margin: by how much it
        is higher on average.
        """
        texts = [
            (prompt_text(conversation), answer)
            for conversation, both in zip(asked, zip(base, tuned, strict=True), strict=True)
            for answer in both
        ]
        with Progress("rewards", len(texts), unit="answers") as progress:
            found = served_outputs(self.folder, self.adapter, threads)(texts, progress.advance)
        rewards = np.asarray(found, np.float64).reshape(-1, 2)
        by = rewards[:, 1] - rewards[:, 0]
        figures = {"win_rate": (by > 0) + (by == 0) / 2, "margin": by}
        return {
            "bundle": str(self.folder),
            "adapter": self.adapter,
            "prompts": len(by),
            "equal": int((by == 0).sum()),
            "base": float(rewards[:, 0].mean()),
            "tuned": float(rewards[:, 1].mean()),
            **means(figures),
        }


def sentence(found: dict[str, Any]) -> str:
    """The verdict in a line."""
    return (
        f"{found['adapter']} prefers the tuned model's answer to the base's for"
        f" {with_interval(found['win_rate'], '{:.1%}'.format)} of {found['prompts']} prompts; mean reward {found['base']:.2f} → {found['tuned']:.2f}"
    )
