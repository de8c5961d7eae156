"""The held-out inputs of an encoder's run, in the form that torch and the graph take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ptune.codecs.sequence import SequenceCodec
from ptune.config.tasks import task_of
from ptune.data.held_out import Held
from ptune.data.shapes.labelled import LabelledRow
from ptune.export.encoder.trace import takes_type_ids
from ptune.formats.bundle import AdapterRecord
from ptune.kinds import imported
from ptune.publish.publishable import FinishedRun
from ptune.tasks.encoder.infer import Encoded, encode
from ptune.verify.encoder.torch_side import EncoderReference, Inputs
from ptune.verify.limits import PROBES


@dataclass(frozen=True)
class HeldOutInputs:
    """Rows that training never saw, some of them encoded, and the training rows."""

    rows: Sequence[LabelledRow]
    encoded: list[Encoded]  # the first rows
    train: Sequence[LabelledRow]

    @property
    def inputs(self) -> list[Inputs]:
        """The inputs on which hops are compared."""
        return [one.inputs for one in self.encoded[:PROBES]]


def held_out_inputs(run: FinishedRun, loaded: EncoderReference, most: int) -> HeldOutInputs:
    """Reads a run's held-out data again, and encodes `most` rows. Raises: DataError where it is gone or has changed."""
    held: Held = imported(task_of(run.recipe.task).held_out)(run.files)
    return HeldOutInputs(held.rows, _encoded(run, held.rows[:most], loaded), held.train)


def _encoded(run: FinishedRun, rows: Sequence[LabelledRow], loaded: EncoderReference) -> list[Encoded]:
    facts = loaded.facts
    adapter = AdapterRecord(
        name="probes",
        **facts.model_dump(
            include={"task", "problem", "labels", "step_separator", "max_length", "preprocessing"}
        ),
    )
    codec = None if loaded.size is not None else SequenceCodec.open(run.files.codec_path)
    inputs = [row.input.open() if codec is None else row.input for row in rows]
    names = ["pixel_values"] if codec is None else ["input_ids"]
    if codec is not None and takes_type_ids(loaded.model.base_model):
        names.append("token_type_ids")
    encoded = (encode(one, adapter, codec) for one in inputs)
    return [replace(one, inputs={key: one.inputs[key] for key in names}) for one in encoded]
