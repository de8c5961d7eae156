"""Golden vectors of an encoder.

golden/inputs.npz       held-out inputs, arrays named INDEX.INPUT, without a batch axis
golden/golden.json      logits of the first of them under each adapter, by the fp32 graph
golden/PROFILE.json     the same by another profile's graph
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from pydantic import Field

from ptune.engine import golden
from ptune.engine.encoder.batch import Item
from ptune.engine.onnx_graph import Array
from ptune.errors import FormatError
from ptune.formats.bundle import FP32, Bundle, parse
from ptune.formats.whole_write import read_json, whole_file

INPUTS = "golden/inputs.npz"
ROUNDED = 2e-2  # tolerance of other profiles: where one rounds differently, a whole step is between
CASES = 4  # inputs that are replayed
MOST_VALUES = 4096  # of a case


class Computing(Protocol):
    """The part of an encoder's engine that matters here."""

    @property
    def adapters(self) -> list[str]: ...

    def logits(self, items: Sequence[Item]) -> list[Array]: ...


class Case(golden.Case):
    """Logits of one input, by its index; under the base, hidden states."""

    quantity: ClassVar[str] = "a logit"
    relative: ClassVar[bool] = True
    input: int
    values: list[float] | list[list[float]] = Field(validation_alias="logits", serialization_alias="logits")


def save_inputs(inputs: Sequence[Mapping[str, Array]], bundle: Path) -> None:
    """Writes held-out inputs into a bundle, for the golden vectors and `ptune verify`."""
    arrays = {f"{index}.{name}": array for index, one in enumerate(inputs) for name, array in one.items()}
    with whole_file(bundle / INPUTS) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # numpy takes its own options by name, too


def load_inputs(bundle: Path) -> list[dict[str, Array]]:
    """Reads a bundle's held-out inputs. Raises: FormatError."""
    path = bundle / INPUTS
    inputs: dict[int, dict[str, Array]] = {}
    try:
        with np.load(path, allow_pickle=False) as file:
            for key in file.files:
                index, _, name = key.partition(".")
                inputs.setdefault(int(index), {})[name] = file[key]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise FormatError(f"{path} is missing or damaged: {error}") from None
    return [inputs[index] for index in sorted(inputs)]


def record(
    engine: Computing,
    inputs: Sequence[Mapping[str, Array]],
    adapters: Sequence[str],
    profile: str = FP32,
) -> dict[str, Any]:
    """The first inputs under every adapter (`base` among them where there is none), as golden.json holds them."""
    pairs = golden.pairs(adapters, len(inputs), CASES)
    cases = [
        Case(adapter=adapter, input=index, values=golden.rounded(values))
        for (index, adapter), values in zip(pairs, _values(engine, inputs, pairs), strict=True)
    ]
    tolerance = golden.TOLERANCE if profile == FP32 else ROUNDED
    return golden.Golden[Case](tolerance=tolerance, cases=cases).dump()


def replay(engine: Computing, bundle: Bundle, profile: str = FP32) -> float:
    """Computes a profile's cases again and returns the worst difference. Cases of removed adapters are left out.

    Raises: ParityError that names the case whose difference is above the tolerance; FormatError.
    """
    path = bundle.golden_file(profile)
    recorded = parse(golden.Golden[Case], read_json(path), path)
    inputs, cases = load_inputs(bundle.folder), golden.served(recorded, engine.adapters)
    golden.require_inputs(cases, len(inputs), path, INPUTS)
    return golden.replay(
        cases,
        lambda cases: _values(engine, inputs, [(case.input, case.adapter) for case in cases]),
        recorded.tolerance,
    )


def _values(
    engine: Computing, inputs: Sequence[Mapping[str, Array]], pairs: Sequence[tuple[int, str]]
) -> list[Array]:
    return [_few(logits) for logits in engine.logits([Item(inputs[at], adapter) for at, adapter in pairs])]


def _few(logits: Array) -> Array:
    """The numbers that are compared: all logits, or the first of hidden states, which can be very many."""
    values = logits.astype(np.float64)
    return values if values.ndim <= 2 and values.size <= MOST_VALUES else values.reshape(-1)[:MOST_VALUES]
