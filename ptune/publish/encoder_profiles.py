"""The int8 graph of an encoder's bundle: written beside the float32 one, and held to its answers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir

from ptune.codecs.image import Preprocessing
from ptune.data.held_out import Held
from ptune.errors import DataError, UsageError
from ptune.export.encoder_int8 import write_int8
from ptune.export.vision_harm import most_harmed
from ptune.export.vision_int8 import layers, rounded_tensors, write_vision_int8
from ptune.export.vision_ranges import ranges
from ptune.export.vision_shift import shifts
from ptune.export.write import INT8, PROFILE, hashes
from ptune.formats.bundle import Bundle, Graph
from ptune.formats.run import Run
from ptune.progress import say
from ptune.publish.steps import tell
from ptune.tasks.classification.image_predictions import pixels_of
from ptune.tasks.encoder.facts import Facts
from ptune.tasks.encoder.infer import Encoded
from ptune.verify import held_images, held_texts
from ptune.verify.encoder_int8 import held_inputs, prove_int8, said, same_answers
from ptune.verify.prove import Proof

SEEN = 128  # training images that steps are taken from
ANSWERED = 512  # at which the answers are compared beforehand
KEPT = (0.0, 0.0625, 0.125, 0.25, 0.5)  # shares of the layers that stay float32 where fewer do not do
SURE = 0.995  # of the answers at those images: more than the gate asks for of held-out ones


def check_int8(run: Run, facts: Facts, merge: bool) -> None:
    """Raises: UsageError where a run cannot have an int8 graph."""
    if facts.preprocessing is not None and run.has_adapter and not merge:
        raise UsageError(
            f"{run.folder} is a classifier of images with an adapter beside its layers, and layers that take adapters stay "
            f"float32: add --merge for the profile {INT8!r}, or leave the profile out"
        )


def write_profile(bundle: Bundle, name: str, held: Held, texts: Sequence[Encoded], threads: int) -> None:
    """Writes the int8 graph of a bundle whose only adapter is `name`, and what it is compared at.

    texts: held-out ones, encoded; of images they are read from `held`.
    Raises: DataError where images cannot be read any more; BackboneError where nothing can be made int8.
    """
    path = bundle.folder / "graphs" / INT8 / "model.onnx"
    if bundle.encoder.modality == "text":
        tell("rounding the weights to int8", 0.0)
        held_texts.save(texts, bundle.folder)
        write_int8(bundle.graph_path(), path, bundle.encoder)
        _register(bundle)
        return
    preprocessing = Preprocessing.model_validate(bundle.adapter(name).preprocessing)
    most = held_images.most(preprocessing.size)
    held_images.save([pixels_of(row, preprocessing) for row in held.rows[:most]], bundle.folder)
    if not held.train:
        raise DataError(
            f"the profile {INT8!r} needs the run's training images, which are gone or have changed"
        )
    every = max(1, len(held.train) // ANSWERED)  # from all over: rows may be sorted by label
    seen = [pixels_of(row, preprocessing) for row in held.train[::every][:ANSWERED]]
    _round_images(bundle, name, held_images.HeldImages(seen, preprocessing), threads)


def _round_images(bundle: Bundle, name: str, images: Sequence[Encoded], threads: int) -> None:
    """Makes as many layers int8 as give the answers of float32 at training images."""
    tell("watching the layers at training images", 0.0)
    source = bundle.graph_path()
    path = bundle.folder / "graphs" / INT8 / "model.onnx"
    names = [str(value.name) for value in rounded_tensors(layers(onnx_ir.load(source)))]
    pixels = [one.inputs["pixel_values"] for one in images[:: max(1, len(images) // SEEN)]]
    found = ranges(source, names, pixels, threads)
    off = shifts(source, found, pixels, threads)
    floats = said(bundle, PROFILE, [name], images, threads)[name]
    problem = bundle.adapter(name).problem or "single"
    order: list[str] = []
    for share in KEPT:
        if share and not order:
            tell("looking for the layers that suffer most", 0.0)
            order = most_harmed(source, found, off, pixels, threads)
        tell(f"rounding to int8, {share:.0%} of the layers left float32", 0.0)
        write_vision_int8(source, path, found, off, order[: math.ceil(share * len(order))])
        _register(bundle)
        same = same_answers(problem, floats, said(bundle, INT8, [name], images, threads)[name])
        say(f"  int8 gives {same.top1 or 0.0:.1%} of float32's answers at {len(images)} training images")
        if (same.top1 or 0.0) >= SURE:
            return


def _register(bundle: Bundle) -> None:
    graph = Graph(profile=INT8, files=hashes(bundle.folder, f"graphs/{INT8}"))
    graphs = {**bundle.manifest.graphs, INT8: graph}
    bundle.write_manifest(bundle.manifest.model_copy(update={"graphs": graphs}))


def with_int8(bundle: Bundle, proof: Proof, threads: int) -> Proof:
    """The proof, each adapter's hops followed by that of the int8 graph, where the bundle has one."""
    if INT8 not in bundle.manifest.graphs:
        return proof
    tell("the int8 graph", 0.8)
    own = prove_int8(bundle, [*proof.adapters], held_inputs(bundle), threads=threads)
    return Proof(proof.base, {name: (*hops, own[name]) for name, hops in proof.adapters.items()})
