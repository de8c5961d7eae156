"""Golden vectors of an encoder: what the exporting machine computed, replayed at every start before anybody is answered.

golden/inputs.npz       the held-out inputs, arrays named INDEX.INPUT, without a batch axis
golden/golden.json      logits of the first of them under each adapter, by the fp32 graph
golden/PROFILE.json     the same by another profile's graph
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from ptune.engine.encoder.batch import Array, Item
from ptune.errors import FormatError, ParityError
from ptune.formats.bundle import BASE, FP32, Bundle, parse
from ptune.formats.whole_write import read_json, whole_file

if TYPE_CHECKING:
    from ptune.engine.encoder.engine import EncoderEngine

INPUTS = "golden/inputs.npz"
TOLERANCE = 1e-3  # of a logit, or of its size where that is more than 1
ROUNDED = 2e-2  # of other profiles: where a rounding falls otherwise, a whole step is between
CASES = 4  # inputs that are replayed


class Case(BaseModel):
    """One input under one adapter."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    adapter: str
    input: int  # index
    logits: list[float] | list[list[float]]


class EncoderGolden(BaseModel):
    """golden.json"""

    model_config = ConfigDict(frozen=True, extra="ignore")
    format: int = 1
    tolerance: float = TOLERANCE
    cases: list[Case]


def save_inputs(inputs: Sequence[Mapping[str, Array]], bundle: Path) -> None:
    """Writes held-out inputs into a bundle, where they serve the golden vectors and `ptune verify`."""
    arrays = {f"{index}.{name}": array for index, one in enumerate(inputs) for name, array in one.items()}
    with whole_file(bundle / INPUTS) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # numpy takes its own options by name, too


def load_inputs(bundle: Path) -> list[dict[str, Array]]:
    """Reads a bundle's held-out inputs. Raises: FormatError."""
    path = bundle / INPUTS
    found: dict[int, dict[str, Array]] = {}
    try:
        with np.load(path, allow_pickle=False) as file:
            for key in file.files:
                index, _, name = key.partition(".")
                found.setdefault(int(index), {})[name] = file[key]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise FormatError(f"{path} is missing or damaged: {error}") from None
    return [found[index] for index in sorted(found)]


def record(
    engine: EncoderEngine,
    inputs: Sequence[Mapping[str, Array]],
    adapters: Sequence[str],
    profile: str = FP32,
) -> dict[str, Any]:
    """The first inputs under every adapter (`base` among them where there is none), as golden.json holds it."""
    pairs = [(index, adapter) for adapter in adapters for index in range(min(CASES, len(inputs)))]
    logits = engine.logits([Item(inputs[index], adapter) for index, adapter in pairs])
    cases = [
        Case(adapter=adapter, input=index, logits=np.round(_few(found), 6).tolist())
        for (index, adapter), found in zip(pairs, logits, strict=True)
    ]
    tolerance = TOLERANCE if profile == FP32 else ROUNDED
    return EncoderGolden(tolerance=tolerance, cases=cases).model_dump()


def replay(engine: EncoderEngine, bundle: Bundle, profile: str = FP32) -> float:
    """Computes a profile's cases again and returns the worst difference. Adapters that are gone are left out.

    Raises: ParityError that names the case which is off by more than the tolerance.
    """
    path = bundle.golden_file(profile)
    known = parse(EncoderGolden, read_json(path), path)
    inputs = load_inputs(bundle.folder)
    cases = [case for case in known.cases if case.adapter in (BASE, *engine.adapters)]
    if any(case.input >= len(inputs) for case in cases):
        raise FormatError(f"{path} is damaged: it names an input that {INPUTS} has not")
    logits = engine.logits([Item(inputs[case.input], case.adapter) for case in cases])
    worst = 0.0
    for case, found in zip(cases, logits, strict=True):
        expected, here = np.array(case.logits), _few(found)
        off = np.inf
        if here.shape == expected.shape:
            off = float((np.abs(here - expected) / np.maximum(np.abs(expected), 1.0)).max())
        if not off <= known.tolerance:  # NaN is not
            raise ParityError(
                "this machine computes otherwise than the one that exported the bundle: under "
                f"{case.adapter!r}, of input {case.input}, a logit is off by {off:.2g}, more than {known.tolerance:g}. "
                "Export the bundle on a machine of this kind."
            )
        worst = max(worst, off)
    return worst


def _few(found: Array, most: int = 4096) -> Array:
    """The numbers that are compared: all logits, or the first of hidden states, which can be very many."""
    flat = found.astype(np.float64)
    return flat if flat.ndim <= 2 and flat.size <= most else flat.reshape(-1)[:most]
