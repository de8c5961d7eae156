"""Writes the int8 graph of an encoder's bundle beside the float32 one, whose answers it must keep."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir

from ptune.codecs.image import Preprocessing
from ptune.data.shapes.labelled import LabelledRow
from ptune.errors import DataError, UsageError
from ptune.export.encoder.int8 import write_int8
from ptune.export.vision.harm import most_harmed
from ptune.export.vision.int8 import layers, rounded_tensors, write_vision_int8
from ptune.export.vision.ranges import ranges
from ptune.export.vision.shift import shifts
from ptune.formats.bundle import FP32, INT8, Bundle
from ptune.formats.run import Run
from ptune.progress import say
from ptune.publish.encoder_held_out import HeldOutInputs
from ptune.publish.steps import enter_graph, report_progress
from ptune.tasks.classification.image_predictions import pixels_of
from ptune.tasks.encoder.facts import Facts
from ptune.tasks.encoder.infer import Encoded
from ptune.verify.encoder import held_images, held_texts
from ptune.verify.encoder.int8 import answers, same_answers

SEEN = 128  # training images to take quantisation steps from
ANSWERED = 512  # training images on which answers are compared beforehand
KEPT = (0.0, 0.0625, 0.125, 0.25, 0.5)  # shares of the layers to keep in float32, tried in order
SURE = 0.995  # of the answers on those images; the gate asks less of held-out ones


def check_int8(run: Run, facts: Facts, merge: bool) -> None:
    """Raises: UsageError if a run cannot have an int8 graph."""
    if facts.preprocessing is not None and run.has_adapter and not merge:
        raise UsageError(
            f"{run.folder} is a classifier of images with an adapter beside its layers, and layers that take adapters stay "
            f"float32: add --merge for the profile {INT8!r}, or leave the profile out"
        )


def save_held_out(bundle: Bundle, held_out: HeldOutInputs) -> None:
    """Writes the inputs on which the int8 graph is compared: encoded texts, or pixels of images."""
    if bundle.encoder.modality == "text":
        held_texts.save(held_out.encoded, bundle.folder)
        return
    preprocessing = _preprocessing(bundle)
    most = held_images.most(preprocessing.size)
    held_images.save([pixels_of(row, preprocessing) for row in held_out.rows[:most]], bundle.folder)


def write_profile(bundle: Bundle, train: Sequence[LabelledRow], threads: int) -> None:
    """Writes the int8 graph of a bundle with one adapter.

    train: training rows; image models are calibrated on them.
    Raises: DataError if images can no longer be read; BackboneError if nothing can be made int8.
    """
    if bundle.encoder.modality == "text":
        report_progress("rounding the weights to int8")
        write_int8(bundle.graph_path(FP32), bundle.folder / "graphs" / INT8 / "model.onnx", bundle.encoder)
        enter_graph(bundle, INT8)
        return
    if not train:
        raise DataError(
            f"the profile {INT8!r} needs the run's training images, which are gone or have changed"
        )
    preprocessing = _preprocessing(bundle)
    every = max(1, len(train) // ANSWERED)  # spread over all rows: they may be sorted by label
    seen = [pixels_of(row, preprocessing) for row in train[::every][:ANSWERED]]
    _round_images(bundle, held_images.HeldImages(seen, preprocessing), threads)


def _preprocessing(bundle: Bundle) -> Preprocessing:
    (name,) = bundle.manifest.adapters
    return Preprocessing.model_validate(bundle.adapter(name).preprocessing)


def _round_images(bundle: Bundle, images: Sequence[Encoded], threads: int) -> None:
    """Makes as many layers int8 as keep the answers of float32 on training images."""
    report_progress("watching the layers at training images")
    (name,), source = bundle.manifest.adapters, bundle.graph_path(FP32)
    path = bundle.folder / "graphs" / INT8 / "model.onnx"
    names = [str(value.name) for value in rounded_tensors(layers(onnx_ir.load(source)))]
    pixels = [one.inputs["pixel_values"] for one in images[:: max(1, len(images) // SEEN)]]
    spans = ranges(source, names, pixels, threads)
    off = shifts(source, spans, pixels, threads)
    floats = answers(bundle, FP32, [name], images, threads)[name]
    problem = bundle.adapter(name).problem or "single"
    order: list[str] = []
    for share in KEPT:
        if share and not order:
            report_progress("looking for the layers that suffer most")
            order = most_harmed(source, spans, off, pixels, threads)
        report_progress(f"rounding to int8, {share:.0%} of the layers left float32")
        write_vision_int8(source, path, spans, off, order[: math.ceil(share * len(order))])
        enter_graph(bundle, INT8)
        same = same_answers(problem, floats, answers(bundle, INT8, [name], images, threads)[name])
        say(f"  int8 gives {same.top1 or 0.0:.1%} of float32's answers at {len(images)} training images")
        if (same.top1 or 0.0) >= SURE:
            return
