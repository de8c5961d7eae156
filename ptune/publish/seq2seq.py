"""From a run on an encoder-decoder to a bundle that may be served, and more adapters into it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from ptune.backbone.seq2seq import Seq2Seq, load_seq2seq, load_seq2seq_codec
from ptune.codecs.seq2seq import Seq2SeqCodec
from ptune.config.recipe import Backbone, Recipe
from ptune.config.translation import DESCRIBED
from ptune.data.seq2seq_examples import load_pairs
from ptune.engine.adapters.folder import LEFT_OUT, check_name, write_record
from ptune.engine.adapters.lora import load_adapter
from ptune.engine.seq2seq import golden
from ptune.engine.seq2seq.engine import Seq2SeqEngine
from ptune.engine.seq2seq.golden import Pair
from ptune.errors import AdapterError, BackboneError, UsageError
from ptune.export.seq2seq import trace_seq2seq
from ptune.export.seq2seq_write import write_seq2seq
from ptune.export.write import hashes
from ptune.formats.bundle import BASE, AdapterRecord, Bundle, Hop
from ptune.formats.run import Run
from ptune.formats.task_names import TRANSLATION
from ptune.formats.whole_write import disk_errors, whole_folder, write_json
from ptune.publish.steps import changed, check_base, check_finished, of_manifest, settle, tell
from ptune.tasks.translation.facts import NAME, Seq2SeqFacts
from ptune.tasks.translation.seq2seq_work import translation_of
from ptune.verify.limits import PROBES
from ptune.verify.probes import WITHOUT_DATA
from ptune.verify.prove import Proof
from ptune.verify.seq2seq_prove import prove_seq2seq

LONGEST = 1024  # tokens of a source or target, where neither model nor tokenizer knows a limit


def reference(backbone: Backbone) -> Seq2Seq:
    """The float32 reference on the CPU: what torch says the served model should compute."""
    found = load_seq2seq(backbone, device="cpu")
    return Seq2Seq(found.model.float(), found.identity)


def export_seq2seq_run(run: Run, out: Path, *, name: str, merge: bool, threads: int) -> Proof:
    """As `ptune.publish.export_run`, of a run on an encoder-decoder; it has one profile, fp32.

    Raises: ParityError where a hop drifts beyond its limit (nothing is left at `out`); UsageError for `merge`.
    """
    check_finished(run)
    if merge:
        raise UsageError(
            f"{run.folder} is of an encoder-decoder, whose adapters are served beside it: without --merge"
        )
    record, recipe, facts = run.record(), Recipe.load(run.recipe_path), Seq2SeqFacts.of_run(run)
    backbone = recipe.backbone if run.has_adapter else recipe.backbone.saved_at(run.model_path)
    loaded = reference(backbone.model_copy(update={"dtype": record.base.dtype}))
    if run.has_adapter and loaded.identity.hash != facts.base:
        raise BackboneError(
            f"{loaded.identity.source} is not the base that {run.folder} was trained on: its weights hash to"
            f" {loaded.identity.hash[:12]}, the run's base to {facts.base[:12]}"
        )
    codec = Seq2SeqCodec.open(run.codec_path)
    adapters = {name: run.adapter_path} if run.has_adapter else {}
    before = {name if adapters else BASE: list(record.hops)}
    held = _held(run, recipe, codec)
    if not adapters:  # nobody else says what its sources begin with
        codec = replace(codec, writing=codec.writing.model_copy(update={"system": facts.system}))
    return _publish(loaded, codec, held, adapters, out, before, threads)


def export_seq2seq_backbone(backbone: Backbone, out: Path, *, threads: int) -> Proof:
    """As `ptune.publish.export_backbone`: a pretrained encoder-decoder without any adapter."""
    codec = load_seq2seq_codec(backbone)
    texts = [codec.target(text, LONGEST).ids for text in WITHOUT_DATA]
    pairs = [Pair(one, other) for one, other in zip(texts, texts[1:] + texts[:1], strict=True)]
    return _publish(reference(backbone), codec, pairs, {}, out, {}, threads)


def _publish(
    loaded: Seq2Seq,
    codec: Seq2SeqCodec,
    pairs: Sequence[Pair],
    adapters: Mapping[str, Path],
    out: Path,
    before: Mapping[str, Sequence[Hop]],
    threads: int,
) -> Proof:
    """Writes, proves and moves a bundle into its place. before: hops that were measured earlier."""
    with whole_folder(out) as stage:
        tell("tracing the graphs", 0.0)
        traced = trace_seq2seq(loaded.model, codec.texts.limit(None) or LONGEST)
        bundle = write_seq2seq(stage, traced, codec, loaded.identity, progress=tell)
        golden.save_pairs(pairs, stage)
        for name, adapter in adapters.items():
            install_seq2seq(bundle, adapter, name)
        write_golden(bundle, pairs, threads)
        proof = prove_seq2seq(bundle, loaded.model, pairs, threads=threads, progress=tell).after(before)
        settle(bundle, proof)
    return proof


def add_to_seq2seq(
    original: Bundle,
    adapter: Path,
    name: str,
    *,
    prove_it: bool,
    backbone: str | None,
    trust_remote_code: bool,
    threads: int,
) -> AdapterRecord:
    """As `ptune.publish.add`."""
    pairs = golden.load_pairs(original.folder)
    loaded = None
    if prove_it:
        loaded = reference(of_manifest(original, backbone, trust_remote_code))
        check_base(original, loaded.identity)
    with changed(original) as bundle:
        install_seq2seq(bundle, adapter, name)
        write_golden(bundle, pairs, threads)
        if loaded is not None:
            proof = prove_seq2seq(bundle, loaded.model, pairs, threads=threads, progress=tell)
            settle(bundle, Proof((), {name: proof.adapters[name]}))
    return Bundle.open(original.folder).adapter(name)


def verify_seq2seq(bundle: Bundle, backbone: Backbone, threads: int) -> Proof:
    """Measures every hop of a bundle again. Its files have been checked against their hashes."""
    loaded = reference(backbone)
    check_base(bundle, loaded.identity)
    pairs = golden.load_pairs(bundle.folder)
    return prove_seq2seq(bundle, loaded.model, pairs, threads=threads, progress=tell)


def install_seq2seq(bundle: Bundle, adapter: Path, name: str) -> AdapterRecord:
    """Copies a PEFT folder into the bundle, checked socket by socket, as yet unmeasured.

    Raises: UsageError for a name that cannot be; AdapterError that lists everything which does not fit.
    """
    check_name(name)
    checked = load_adapter(adapter, bundle.seq2seq)
    facts = Seq2SeqFacts.open(adapter) if (adapter / NAME).is_file() else None
    if facts is not None and facts.base != bundle.manifest.base.hash:
        raise AdapterError(
            f"{adapter} was trained on another base ({facts.base[:12]}) than this bundle's"
            f" ({bundle.manifest.base.hash[:12]})"
        )
    place = bundle.adapter_path(name)
    with disk_errors(place), whole_folder(place) as part:
        shutil.copytree(adapter, part, ignore=LEFT_OUT, dirs_exist_ok=True)
        record = AdapterRecord(
            name=name,
            task=TRANSLATION,
            files=hashes(part),
            rank=checked.rank,
            base=None if facts is None else facts.base,
            own_prompt=facts is not None,
            system=None if facts is None else facts.system,
            max_length=None if facts is None else facts.max_length,
            translation={} if facts is None else facts.model_dump(include={*DESCRIBED}),
            added=datetime.now(UTC).date().isoformat(),
        )
        write_json(part / "adapter.json", record.model_dump(mode="json"))
    write_record(bundle, record)
    return record


def write_golden(bundle: Bundle, pairs: Sequence[Pair], threads: int) -> None:
    """Records what the engine computes here, to be replayed at every start."""
    tell("recording golden vectors", 0.0)
    with closing(Seq2SeqEngine.open(bundle, threads=threads, replay_golden=False)) as engine:
        said = golden.record(engine, pairs, [BASE, *bundle.manifest.adapters])
    write_json(bundle.golden_path, said)
    bundle.write_manifest(bundle.manifest.model_copy(update={"golden": hashes(bundle.folder, "golden")}))


def _held(run: Run, recipe: Recipe, codec: Seq2SeqCodec) -> list[Pair]:
    """The first held-out pairs of a run, in tokens."""
    data = load_pairs(recipe.data, translation_of(recipe), codec, recipe.train.seed)
    held = data.splits["test"].examples or data.validation or data.train
    return [Pair(one.source, one.target) for one in held[:PROBES]]
