"""ptune.json beside the weights of an encoder-decoder: the information needed to use them as trained."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from ptune.codecs import seq2seq as codec
from ptune.formats.bundle import parse
from ptune.formats.run import Run
from ptune.formats.whole_write import read_json, write_json

FORMAT = 1
NAME = "ptune.json"
TASK = "seq2seq"


class Seq2SeqFacts(BaseModel):
    """adapter/ptune.json and model/ptune.json. PEFT ignores the file."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    format: int = FORMAT
    task: str = TASK
    base: str  # hash of the weights that were trained on
    system: str | None = None  # precedes every source, like T5's "translate English to German: "
    max_length: int | None = None  # longest source and longest target, in tokens
    source: str = "source"  # the columns that it was trained on
    target: str = "target"
    source_language: str | None = None
    target_language: str | None = None

    def save(self, folder: Path) -> None:
        """Writes ptune.json."""
        write_json(folder / NAME, self.model_dump(mode="json", exclude_none=True))

    @classmethod
    def open(cls, folder: Path) -> Seq2SeqFacts:
        """Reads ptune.json. Raises: FormatError."""
        return parse(cls, read_json(folder / NAME), folder / NAME)

    @classmethod
    def of_run(cls, run: Run) -> Seq2SeqFacts:
        """Reads the ptune.json of a run. Raises: FormatError if the run has not trained anything yet."""
        return cls.open(run.adapter_path if run.has_adapter else run.model_path)


def is_seq2seq_run(run: Run) -> bool:
    """Whether a run trains an encoder-decoder, from the files that it begins with."""
    return (run.codec_path / codec.FILE).is_file()
