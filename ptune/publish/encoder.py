"""From a run of classification to an encoder's bundle that may be served, and more adapters into it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ptune.codecs.sequence import SequenceCodec
from ptune.config.recipe import Backbone, Recipe
from ptune.config.tasks import code, task_of
from ptune.data.held_out import Held
from ptune.data.labelled import LabelledRow
from ptune.engine.encoder import golden
from ptune.engine.encoder.engine import EncoderEngine
from ptune.errors import AdapterError, UsageError
from ptune.export.encoder import takes_type_ids
from ptune.export.encoder_parts import trace_body
from ptune.export.write import hashes, write_traced
from ptune.formats.bundle import BASE, AdapterRecord, Bundle, Hop
from ptune.formats.run import Run
from ptune.formats.whole_write import whole_folder, write_json
from ptune.publish.encoder_adapter import facts_of, install_encoder, refuse_socketless
from ptune.publish.encoder_merge import Trained
from ptune.publish.encoder_profiles import check_int8, with_int8, write_profile
from ptune.publish.steps import changed, check_base, check_finished, of_manifest, settle, tell
from ptune.publish.unread_base import unread
from ptune.tasks.encoder.facts import Facts
from ptune.tasks.encoder.infer import Encoded, encode
from ptune.verify import held_texts
from ptune.verify.encoder_prove import prove_encoder
from ptune.verify.encoder_torch import Inputs, Reference, reference
from ptune.verify.item_index import with_items
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

    merge: the adapter becomes part of the body's weights, and its head alone stands beside them.
    int8: whether a second graph is written, which must give the same answers.

    Raises: ParityError where a hop drifts beyond its limit (nothing is left at `out`); UsageError where a run of images
    cannot have an int8 graph.
    """
    check_finished(run)
    if int8:
        check_int8(run, Facts.of_run(run), merge)
    trained, held = Trained.open(run), _held(run)
    if merge and "items" in (trained.loaded.facts.embedding or {}):
        raise UsageError(
            f"{run.folder} recommends, and its items lie beside its adapter: export it without --merge"
        )
    most = held_texts.MOST if int8 and trained.loaded.size is None else PROBES
    found = encoded(run, held.rows[:most], trained.loaded)
    inputs = [one.inputs for one in found[:PROBES]]
    if merge:
        tell("merging the adapter", 0.0)
        trained = trained.merge(run, inputs)
    loaded, backbone = trained.loaded, trained.backbone
    with whole_folder(out) as stage:
        tell("tracing the graph", 0.0)
        trust, sockets = backbone.trust_remote_code, trained.adapter is not None
        traced = trace_body(loaded.model, loaded.size, sockets=sockets, trust_remote_code=trust)
        codec = CopiedCodec(run.codec_path)
        bundle = write_traced(stage, traced, codec, loaded.identity, progress=tell)
        golden.save_inputs(inputs, stage)
        references = {name: partial(reference, backbone, loaded.facts)}
        install_encoder(bundle, trained.adapter, name, loaded)
        if int8:
            write_profile(bundle, name, held, found, threads)
        write_golden(bundle, inputs, threads)
        proof = prove_encoder(bundle, references, inputs, threads=threads, progress=tell)
        proof = proof.after({name: list(trained.hops)})
        proof = with_items(bundle, with_int8(bundle, proof, threads), threads)
        settle(bundle, proof)
    return proof


def merge_encoder_run(run: Run, out: Path) -> Hop:
    """Merges a run's adapter into its body and saves a plain transformers folder; of vectors sentence-transformers', too.

    Returns the comparison with the live adapter. Raises: ParityError, and saves nothing, where they differ.
    """
    check_finished(run)
    if out.exists():
        raise UsageError(f"{out} exists already: choose another --out")
    if not run.has_adapter:
        raise UsageError(f"{run.folder} has no adapter: its trained weights are in {run.model_path} already")
    trained = Trained.open(run)
    inputs = [one.inputs for one in encoded(run, _held(run).rows[:PROBES], trained.loaded)]
    return trained.merge(run, inputs, out).hops[-1]


def _held(run: Run) -> Held:
    """The held-out inputs of a run."""
    held: Held = code(task_of(Recipe.load(run.recipe_path).task).held_out)(run)
    return held


def encoded(run: Run, rows: Sequence[LabelledRow], loaded: Reference) -> list[Encoded]:
    """Held-out rows of a run, as torch and the graph take them."""
    facts = loaded.facts
    adapter = AdapterRecord(
        name="probes",
        **facts.model_dump(include={"task", "problem", "labels", "max_length", "preprocessing"}),
    )
    codec = None if loaded.size is not None else SequenceCodec.open(run.codec_path)
    given = [row.input.open() if codec is None else row.input for row in rows]
    wanted = ["pixel_values"] if codec is None else ["input_ids"]
    if codec is not None and takes_type_ids(loaded.model.base_model):
        wanted.append("token_type_ids")
    found = (encode(one, adapter, codec) for one in given)
    return [replace(one, inputs={key: one.inputs[key] for key in wanted}) for one in found]


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
    """As `ptune.publish.add`. Unproved, the base is read only where the adapter's head needs weights of it."""
    refuse_socketless(original)
    facts = facts_of(adapter, original)
    spec = of_manifest(original, backbone, trust_remote_code)
    loaded = None if prove_it else unread(original, spec, facts, adapter)
    if loaded is None:
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
            proof = with_items(bundle, with_int8(bundle, Proof((), proof.adapters), threads), threads)
            settle(bundle, proof)
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
    return with_items(bundle, with_int8(bundle, proof, threads), threads)


def write_golden(bundle: Bundle, inputs: Sequence[Mapping[str, Any]], threads: int) -> None:
    """Records what the engine answers here with each graph, to be replayed at every start."""
    tell("recording golden vectors", 0.0)
    names = list(bundle.manifest.adapters) or [BASE]
    for profile in bundle.manifest.graphs:
        with closing(
            EncoderEngine.open(bundle, profile=profile, threads=threads, replay_golden=False)
        ) as engine:
            said = golden.record(engine, inputs, names, profile)
        write_json(bundle.golden_file(profile), said)
    bundle.write_manifest(bundle.manifest.model_copy(update={"golden": hashes(bundle.folder, "golden")}))
