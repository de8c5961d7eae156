"""From a run of classification to an encoder's bundle that may be served, and more adapters into it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ptune.engine import encoder_golden as golden
from ptune.engine.encoder import EncoderEngine
from ptune.errors import AdapterError, BackboneError, UsageError
from ptune.evaluation.classification.held import of_run
from ptune.export.encoder_int8 import write_int8
from ptune.export.encoder_parts import trace_body
from ptune.export.write import INT8, hashes, write_traced
from ptune.formats.bundle import BASE, AdapterRecord, Bundle, Graph
from ptune.formats.run import Run
from ptune.formats.whole_write import whole_folder, write_json
from ptune.publish.encoder_adapter import facts_of, install_encoder
from ptune.publish.steps import changed, check_base, check_finished, of_manifest, record, refuse_drift, tell
from ptune.recipe import Backbone, Recipe
from ptune.tasks.classification.facts import Facts
from ptune.tasks.classification.infer import Encoded, encode
from ptune.verify import held_texts
from ptune.verify.encoder_int8 import prove_int8
from ptune.verify.encoder_prove import prove_encoder
from ptune.verify.encoder_torch import Inputs, Reference, reference
from ptune.verify.limits import PROBES
from ptune.verify.prove import Proof


@dataclass(frozen=True)
class CopiedCodec:
    """A run's codec, taken as it is."""

    source: Path

    def save(self, folder: Path) -> None:
        shutil.copytree(self.source, folder, dirs_exist_ok=True)


def export_encoder_run(
    run: Run, out: Path, *, name: str, merge: bool = False, threads: int, int8: bool = False
) -> Proof:
    """Exports a finished run of classification to the bundle `out`, its adapter under `name`, and proves it.

    int8: whether a second graph is written, which must give the same answers.

    Raises: ParityError where a hop drifts beyond its limit (nothing is left at `out`); UsageError for `merge`.
    """
    check_finished(run)
    if merge:
        raise UsageError(
            f"{run.folder} is a run of classification, whose head stays an adapter: export it without --merge"
        )
    run_record, recipe, facts = run.record(), Recipe.load(run.recipe_path), Facts.of_run(run)
    if int8 and facts.preprocessing is not None:
        raise UsageError(f"{run.folder} is a classifier of images, which have no profile {INT8!r}")
    backbone = recipe.backbone if run.has_adapter else recipe.backbone.saved_at(run.model_path)
    backbone = backbone.model_copy(update={"dtype": run_record.base.dtype})
    loaded = reference(backbone, facts)
    if run.has_adapter and loaded.identity.hash != facts.base:
        raise BackboneError(
            f"{recipe.backbone.model} is not the base that {run.folder} was trained on: its weights hash to "
            f"{loaded.identity.hash[:12]}, the run's base to {facts.base[:12]}"
        )
    facts = facts.model_copy(
        update={"base": loaded.identity.hash}
    )  # a run that trained the body has a new one
    with whole_folder(out) as stage:
        tell("tracing the graph", 0.0)
        trust, sockets = backbone.trust_remote_code, run.has_adapter
        traced = trace_body(loaded.model, loaded.size, sockets=sockets, trust_remote_code=trust)
        codec = CopiedCodec(run.codec_path)
        bundle = write_traced(stage, traced, codec, loaded.identity, progress=tell)
        held = encoded(run, facts, bundle, held_texts.MOST if int8 else PROBES)
        inputs = [one.inputs for one in held[:PROBES]]
        golden.save_inputs(inputs, stage)
        if int8:
            held_texts.save(held, stage)
            _write_int8(bundle)
        install_encoder(
            bundle, run.adapter_path if run.has_adapter else None, name, replace(loaded, facts=facts)
        )
        write_golden(bundle, inputs, threads)
        references = {name: partial(reference, backbone, facts)}
        proof = prove_encoder(bundle, references, inputs, threads=threads, progress=tell)
        proof = proof.after({name: list(run_record.hops)})
        proof = _with_int8(bundle, proof, threads)
        record(bundle, proof)
        refuse_drift(proof)
    return proof


def _write_int8(bundle: Bundle) -> None:
    """Writes the int8 graph beside the float32 one."""
    tell("rounding the weights to int8", 0.0)
    path = bundle.folder / "graphs" / INT8 / "model.onnx"
    write_int8(bundle.graph_path(), path, bundle.encoder)
    graph = Graph(profile=INT8, files=hashes(bundle.folder, f"graphs/{INT8}"))
    graphs = {**bundle.manifest.graphs, INT8: graph}
    bundle.write_manifest(bundle.manifest.model_copy(update={"graphs": graphs}))


def _with_int8(bundle: Bundle, proof: Proof, threads: int) -> Proof:
    """The proof, each adapter's hops followed by that of the int8 graph, where the bundle has one."""
    if INT8 not in bundle.manifest.graphs:
        return proof
    tell("the int8 graph", 0.8)
    own = prove_int8(bundle, [*proof.adapters], held_texts.load(bundle.folder), threads=threads)
    return Proof(proof.base, {name: (*hops, own[name]) for name, hops in proof.adapters.items()})


def encoded(run: Run, facts: Facts, bundle: Bundle, most: int) -> list[Encoded]:
    """Held-out inputs of a run, as the graph takes them. Raises: DataError where its data is gone or has changed."""
    rows = of_run(run).rows[:most]
    adapter = AdapterRecord(
        name="probes",
        **facts.model_dump(include={"task", "problem", "labels", "max_length", "preprocessing"}),
    )
    codec = None
    if bundle.encoder.modality == "text":
        from ptune.codecs.sequence import SequenceCodec

        codec = SequenceCodec.open(run.codec_path)
    given = [row.input.open() if codec is None else row.input for row in rows]
    wanted = bundle.encoder.step_inputs()
    found = (encode(one, adapter, codec) for one in given)
    return [
        replace(one, inputs={key: array for key, array in one.inputs.items() if key in wanted})
        for one in found
    ]


def add_to_encoder(
    original: Bundle,
    adapter: Path,
    name: str,
    *,
    prove_it: bool,
    backbone: str | None,
    trust_remote_code: bool,
    threads: int,
) -> AdapterRecord:
    """As `ptune.publish.add`. The base is loaded in any case: the adapter's head is traced from it."""
    facts = facts_of(adapter, original)
    spec = of_manifest(original, backbone, trust_remote_code)
    loaded = reference(spec, facts)
    check_base(original, loaded.identity)
    inputs = golden.load_inputs(original.folder)
    _check_size(inputs, loaded, adapter)
    with changed(original) as bundle:
        install_encoder(bundle, adapter, name, loaded)
        write_golden(bundle, inputs, threads)
        if prove_it:
            references = {name: partial(reference, spec, facts)}
            proof = prove_encoder(bundle, references, inputs, threads=threads, progress=tell)
            proof = _with_int8(bundle, Proof((), proof.adapters), threads)
            record(bundle, proof)
            refuse_drift(proof)
    return Bundle.open(original.folder).adapter(name)


def _check_size(inputs: Sequence[Inputs], loaded: Reference, adapter: Path) -> None:
    """Raises: AdapterError where an adapter's images are not of the size that the graph takes."""
    for one in inputs[:1]:
        taken = one["pixel_values"].shape[1:] if "pixel_values" in one else None
        if taken != loaded.size:
            raise AdapterError(f"{adapter} was trained on images of {loaded.size}; this bundle takes {taken}")


def verify_encoder(bundle: Bundle, backbone: Backbone, threads: int) -> Proof:
    """Measures every hop of an encoder's bundle again. Its files have been checked against their hashes."""
    references = {}
    for name in bundle.manifest.adapters:
        facts = Facts.open(bundle.adapter_path(name))
        check_base(bundle, reference(backbone, facts).identity)
        references[name] = partial(reference, backbone, facts)
    inputs: Sequence[Inputs] = golden.load_inputs(bundle.folder)
    proof = prove_encoder(bundle, references, inputs, threads=threads, progress=tell)
    return _with_int8(bundle, proof, threads)


def write_golden(bundle: Bundle, inputs: Sequence[Mapping[str, Any]], threads: int) -> None:
    """Records what the engine answers here with each graph, to be replayed at every start."""
    tell("recording golden vectors", 0.0)
    names = list(bundle.manifest.adapters) or [BASE]
    for profile in bundle.manifest.graphs:
        with closing(
            EncoderEngine.open(bundle, profile=profile, threads=threads, replay_golden=False)
        ) as engine:
            said = golden.record(engine, inputs, names, profile)
        write_json(golden.path_of(bundle, profile), said)
    bundle.write_manifest(bundle.manifest.model_copy(update={"golden": hashes(bundle.folder, "golden")}))
