"""ptune.json beside a classifier's weights: the information needed to use them as trained. PEFT ignores the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from ptune.codecs.labels import Labels, Problem
from ptune.errors import BackboneError
from ptune.formats.bundle import BaseIdentity, parse
from ptune.formats.run import Run
from ptune.formats.whole_write import read_json, write_json

FORMAT = 1
NAME = "ptune.json"


class Facts(BaseModel):
    """adapter/ptune.json and model/ptune.json"""

    model_config = ConfigDict(frozen=True, extra="ignore")
    format: int = FORMAT
    task: str  # {text,token,image}-classification, feature-extraction (vectors), text-ranking
    base: str  # hash of the body that it was trained on
    quantize: str = "none"
    labels: tuple[str, ...]
    problem: Problem
    head: tuple[str, ...] = ()  # modules that belong to the task, not to the body
    max_length: int | None = None
    step_separator: str | None = None  # of a process reward model: what follows each step
    preprocessing: dict[str, Any] | None = None  # of images
    embedding: dict[str, Any] | None = None  # of vectors: `width`, `pooling`, `normalize`, `dimensions`

    @property
    def named(self) -> Labels:
        return Labels(self.labels, self.problem)

    def save(self, folder: Path) -> None:
        """Writes ptune.json."""
        write_json(folder / NAME, self.model_dump(mode="json", exclude_none=True))

    @classmethod
    def open(cls, folder: Path) -> Facts:
        """Reads ptune.json. Raises: FormatError."""
        return parse(cls, read_json(folder / NAME), folder / NAME)

    @classmethod
    def of_run(cls, run: Run) -> Facts:
        """Reads the ptune.json of a run. Raises: FormatError if the run has not trained anything yet."""
        return cls.open(run.adapter_path if run.has_adapter else run.model_path)

    def check_base(self, run: Run, found: BaseIdentity) -> None:
        """Raises: BackboneError if a run's adapter would be put on another body than the one it was trained on."""
        if run.has_adapter and found.hash != self.base:
            raise BackboneError(
                f"{found.source} is not the base that {run.folder} was trained on: its weights hash to {found.hash[:12]},"
                f" the run's base to {self.base[:12]}"
            )
