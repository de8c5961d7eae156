"""Examines all data of a recipe, whatever its errors; trains nothing."""

from __future__ import annotations

from dataclasses import dataclass

from ptune.codecs.chat import ChatCodec
from ptune.config.chat import Chat
from ptune.config.recipe import Data
from ptune.data.examples import dataset
from ptune.doctor.doctor import SPLITS, Doctor
from ptune.doctor.finding import Finding, in_order
from ptune.doctor.refused import file_refused, row_refused
from ptune.errors import DataError


@dataclass(frozen=True)
class Examination:
    """The data that was read, and all findings on it."""

    doctor: Doctor
    findings: list[Finding]

    @property
    def has_errors(self) -> bool:
        return any(finding.severity == "error" for finding in self.findings)


def examine(data: Data, task: Chat, codec: ChatCodec, seed: int) -> Examination:
    """Reads the data as in training. An unusable file becomes a finding, and the other files are still read.

    Raises: DataError if nothing can be read: no files, or too few rows.
    """
    left_out: list[Finding] = []
    while True:
        doctor = Doctor(task, codec)
        error = _read(data, task, codec, seed, doctor)
        if error is None or doctor.covers(error):
            break
        if error.file is None:  # not about one file: the only finding
            if not left_out and not doctor.findings():
                raise error
            left_out.append(_unusable(error))
            break
        left_out += [finding for finding in doctor.findings_of_rows() if _is_of(finding, error)]
        if not doctor.explains(error.file):
            left_out.append(_unusable(error))
        fewer = _without(data, error.file)
        if fewer == data or not fewer.files:
            break
        data = fewer
    return Examination(doctor, in_order(_once(doctor.findings() + left_out), doctor.rules))


def _read(data: Data, task: Chat, codec: ChatCodec, seed: int, doctor: Doctor) -> DataError | None:
    for split, paths in (("train", data.files), ("validation", data.validation), ("test", data.test)):
        for path in paths:
            doctor.file(split, path)  # reading may have stopped before this file
    try:
        dataset.load(data, task, codec, seed, doctor)
    except DataError as error:
        return error
    return None


def _unusable(error: DataError) -> Finding:
    """A finding on an unusable file, or on the data as a whole."""
    finding = file_refused(error)
    if error.line is not None and finding.place is not None:
        return row_refused(finding.place, finding.message, 1)
    return finding


def _is_of(finding: Finding, error: DataError) -> bool:
    return finding.place is not None and finding.place.file == error.file


def _without(data: Data, file: str | None) -> Data:
    """The data without a file."""
    kept = {split: _kept(data, split, file) for split in ("files", *SPLITS[1:])}
    return data.model_copy(update={**kept, "weights": ()})


def _kept(data: Data, split: str, file: str | None) -> tuple[object, ...]:
    return tuple(path for path in getattr(data, split) if str(path) != file)


def _once(findings: list[Finding]) -> list[Finding]:
    """Drops repeated findings: files may be read several times."""
    return list(dict.fromkeys(findings))
