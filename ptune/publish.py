"""From a run to a bundle that may be served: written beside its place, proved there, and only then moved into it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import torch
from transformers import PreTrainedModel

from ptune.backbone.load import Loaded, load
from ptune.backbone.tokenizer import transformers_tokenizer
from ptune.engine import golden
from ptune.engine.adapters import load_adapter
from ptune.engine.engine import Engine
from ptune.errors import AdapterError, BackboneError, ParityError, UsageError
from ptune.evaluation.held_out import held_out
from ptune.export.merge import merged
from ptune.export.weights import ModelWeights
from ptune.export.write import hashes, write_bundle
from ptune.formats.bundle import BASE, AdapterRecord, BaseIdentity, Bundle, Hop
from ptune.formats.run import Run
from ptune.formats.whole_write import disk_errors, sha256_of, write_json, write_text
from ptune.progress import say
from ptune.recipe import Backbone, Recipe
from ptune.training.checkpoint import whole_folder
from ptune.verify import probes as probing
from ptune.verify.compare import compare
from ptune.verify.limits import MAX_ABS_LOGPROB
from ptune.verify.live import live_kernel_hop
from ptune.verify.prove import Proof, prove
from ptune.verify.torch_side import Probe, logprobs


def export_run(
    run: Run, out: Path, *, name: str, merge: bool = False, force: bool = False, threads: int
) -> Proof:
    """Exports a finished run to the bundle `out`, its adapter under `name`, and proves it.

    Raises: ParityError where a hop drifts beyond its limit (nothing is left at `out`); BackboneError where the base
    is not the one that the run was trained on.
    """
    record, recipe = run.record(), Recipe.load(run.recipe_path)
    if record.status == "running":
        raise UsageError(f"{run.folder} is not finished: go on with `ptune train {run.recipe_path} --resume`")
    backbone = recipe.backbone.model_copy(update={"dtype": record.base.dtype})
    loaded = reference(backbone if run.has_adapter else Backbone(model=str(run.model_path)))
    if run.has_adapter and loaded.identity.hash != record.base.hash:
        raise BackboneError(
            f"{recipe.backbone.model} is not the base that {run.folder} was trained on: "
            f"its weights hash to {loaded.identity.hash[:12]}, the run's base to {record.base.hash[:12]}"
        )
    probes = probing.from_examples(held_out(run).examples)
    adapters = {name: run.adapter_path} if run.has_adapter else {}
    before = list(record.hops)
    if adapters and backbone.quantize != "none":
        before.append(live_kernel_hop(backbone, loaded.model, run.adapter_path, probes))
    if adapters and merge:
        loaded, adapters = merge_into(loaded, run.adapter_path), {}
    return publish(loaded, adapters, probes, out, before={name: before}, force=force, threads=threads)


def export_backbone(backbone: Backbone, out: Path, *, force: bool = False, threads: int) -> Proof:
    """Exports a pretrained model without any adapter; `ptune add` brings adapters later."""
    loaded = reference(backbone)
    return publish(
        loaded, {}, probing.without_data(loaded.codec), out, before={}, force=force, threads=threads
    )


def reference(backbone: Backbone) -> Loaded:
    """The float32 reference on the CPU: what torch says the served model should compute."""
    loaded = load(backbone, attention="sdpa", device="cpu", dequantized=True)
    return Loaded(loaded.model.float(), loaded.codec, loaded.identity)


def merge_into(loaded: Loaded, adapter: Path) -> Loaded:
    """The reference with an adapter merged into its weights."""
    from peft import PeftModel

    model, _ = merged(PeftModel.from_pretrained(loaded.model, str(adapter)))
    assert isinstance(model, PreTrainedModel)
    return Loaded(model, loaded.codec, loaded.identity)


def merge_run(run: Run, out: Path, dtype: str) -> tuple[Hop, float]:
    """Merges a run's adapter into its dequantised base and saves a plain transformers folder.

    Returns the comparison of the saved weights with the live adapter, and the relative L2 error of the update.
    Raises: ParityError, and saves nothing, where the merge lost more than the limit.
    """
    from peft import PeftModel

    if not run.has_adapter:
        raise UsageError(f"{run.folder} has no adapter: its trained weights are in {run.model_path} already")
    if out.exists():
        raise UsageError(f"{out} exists already: choose another --out")
    recipe = Recipe.load(run.recipe_path)
    loaded = reference(recipe.backbone)
    probes = probing.from_examples(held_out(run).examples)
    live = PeftModel.from_pretrained(loaded.model, str(run.adapter_path))
    before = logprobs(live, probes)
    plain, lost = merged(live, getattr(torch, dtype))
    hop = compare("live adapter → merged", before, logprobs(plain, probes), max_abs_logprob=MAX_ABS_LOGPROB)
    if not hop.passed:
        raise ParityError(
            f"merging in {dtype} would lose too much: {figures(hop)}, but the limit is {hop.limit}; "
            f"the update itself would be off by {lost:.1%}. Use --dtype float32, or serve the adapter unmerged"
        )
    with disk_errors(out), whole_folder(out) as part:
        plain.save_pretrained(part)
        transformers_tokenizer(loaded.codec).save_pretrained(part)
    return hop, lost


def publish(
    loaded: Loaded,
    adapters: Mapping[str, Path],
    probes: list[Probe],
    out: Path,
    *,
    before: Mapping[str, list[Hop]],
    force: bool,
    threads: int,
) -> Proof:
    """Writes, proves and moves a bundle into its place. `before` holds hops that were measured earlier."""
    if out.exists() and not force:
        raise UsageError(f"{out} exists already: choose another --out, or replace it with --force")
    stage = out.parent / f".{out.name}.part"
    shutil.rmtree(stage, ignore_errors=True)
    try:
        with disk_errors(stage):
            bundle = write_bundle(
                stage,
                loaded.model.config,
                ModelWeights(loaded.model),
                loaded.codec,
                loaded.identity,
                progress=tell,
            )
        probing.save(probes, stage)
        for name, folder in adapters.items():
            install(bundle, folder, name, loaded.identity)
        write_golden(bundle, probes, threads)
        proof = prove(bundle, loaded.model, adapters, probes, threads=threads, progress=tell)
        record(bundle, proof, before)
        refuse_drift(proof, before)
        replace(stage, out)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return proof


def add(folder: Path, adapter: Path, name: str, *, prove_it: bool = True, threads: int) -> AdapterRecord:
    """Adds a PEFT folder that ptune need not have trained to a bundle, and proves it where the base can be loaded.

    Raises: AdapterError that lists everything which keeps it from being served; ParityError where it drifts.
    """
    bundle = Bundle.open(folder)
    if name in bundle.manifest.adapters:
        raise UsageError(f"{folder} has an adapter {name!r} already: choose another --name")
    before, golden_before, probes = (
        bundle.manifest,
        bundle.golden_path.read_text(encoding="utf-8"),
        probing.load(folder),
    )
    install(bundle, adapter, name, None)
    try:
        write_golden(bundle, probes, threads)
        if prove_it:
            loaded = reference(of_manifest(bundle))
            check_base(bundle, loaded.identity)
            proof = prove(bundle, loaded.model, {name: adapter}, probes, threads=threads, progress=tell)
            record(bundle, Proof((), proof.adapters), {})
            refuse_drift(Proof((), proof.adapters), {})
    except BaseException:
        write_text(bundle.golden_path, golden_before)
        bundle.write_manifest(before)
        shutil.rmtree(bundle.adapter_path(name), ignore_errors=True)
        raise
    return bundle.adapter(name)


def verify(folder: Path, *, backbone: str | None = None, threads: int) -> Proof:
    """Measures every hop of a bundle again, on this machine, and checks every file against its hash.

    Raises: FormatError where a file is damaged; ParityError is left to the caller, who sees the whole proof.
    """
    bundle = Bundle.open(folder)
    manifest = bundle.manifest
    for files in (manifest.codec, manifest.golden, *(graph.files for graph in manifest.graphs.values())):
        bundle.check_files(files)
    for name in manifest.adapters:
        bundle.check_files(
            {f"adapters/{name}/{file}": value for file, value in bundle.adapter(name).files.items()}
        )
    loaded = reference(of_manifest(bundle, backbone))
    check_base(bundle, loaded.identity)
    adapters = {name: bundle.adapter_path(name) for name in manifest.adapters}
    return prove(bundle, loaded.model, adapters, probing.load(folder), threads=threads, progress=tell)


def of_manifest(bundle: Bundle, model: str | None = None) -> Backbone:
    """The backbone that a bundle was made of; `model` says where it is now."""
    base = bundle.manifest.base
    return Backbone.model_validate(
        {
            "model": model or base.source,
            "quantize": base.quantize,
            "dtype": base.dtype,
            "revision": base.revision,
        }
    )


def check_base(bundle: Bundle, found: BaseIdentity) -> None:
    """Raises: BackboneError where the reference's weights are not those that the bundle was made of."""
    base = bundle.manifest.base
    if base.hash != found.hash:
        raise BackboneError(
            f"{found.source} is not the base of {bundle.folder}: its weights hash to {found.hash[:12]}, "
            f"the bundle's to {base.hash[:12]}; say where the right one is with --backbone"
        )


def install(bundle: Bundle, adapter: Path, name: str, base: BaseIdentity | None) -> None:
    """Copies a PEFT folder into the bundle, checked socket by socket, as yet unmeasured."""
    if name == BASE or name != os.path.basename(name) or not name or name.startswith("."):
        raise UsageError(f"--name {name!r}: must be a plain folder name other than {BASE!r}")
    checked = load_adapter(adapter, bundle.manifest.signature)
    place = bundle.adapter_path(name)
    if place.exists():
        raise AdapterError(f"{place} exists already")
    with disk_errors(place):
        shutil.copytree(adapter, place, ignore=shutil.ignore_patterns("adapter.json", "*.bin", "*.pt", ".*"))
    template = adapter / "chat_template.jinja"
    files = hashes(place, "")
    write_record(
        bundle,
        AdapterRecord(
            name=name,
            files=files,
            rank=checked.rank,
            base=base.hash if base else None,
            template=template.read_text(encoding="utf-8") if template.is_file() else None,
            added=datetime.now(UTC).date().isoformat(),
        ),
    )


def write_record(bundle: Bundle, adapter: AdapterRecord) -> None:
    """Writes adapter.json, then the manifest that vouches for it."""
    path = bundle.adapter_path(adapter.name) / "adapter.json"
    write_json(path, adapter.model_dump(mode="json"))
    adapters = {**bundle.manifest.adapters, adapter.name: sha256_of(path)}
    bundle.write_manifest(bundle.manifest.model_copy(update={"adapters": adapters}))


def record(bundle: Bundle, proof: Proof, before: Mapping[str, list[Hop]]) -> None:
    """Writes the figures into the artefact."""
    if proof.base:
        bundle.write_manifest(bundle.manifest.model_copy(update={"hops": proof.base}))
    for name, hops in proof.adapters.items():
        whole = (*before.get(name, ()), *hops)
        write_record(bundle, bundle.adapter(name).model_copy(update={"hops": whole, "parity": "measured"}))


def refuse_drift(proof: Proof, before: Mapping[str, list[Hop]]) -> None:
    """Raises: ParityError that names each hop beyond its limit."""
    failed = [hop for hop in [*(h for hops in before.values() for h in hops), *proof.hops] if not hop.passed]
    if failed:
        raise ParityError(
            "; ".join(f"{hop.name}: {figures(hop)}, but the limit is {hop.limit}" for hop in failed)
        )


def figures(hop: Hop) -> str:
    """A hop's figures in one line."""
    parts = []
    if hop.max_abs_logprob is not None:
        parts.append(f"max |Δ log p| {hop.max_abs_logprob:.1e}")
    if hop.mean_kl is not None:
        parts.append(f"mean KL {hop.mean_kl:.1e}")
    if hop.top1 is not None:
        parts.append(f"top-1 {hop.top1:.1%}")
    if hop.liveness is not None:
        parts.append(f"relative L2 {hop.liveness:.1e}")
    return ", ".join([*parts, hop.note] if hop.note else parts)


def write_golden(bundle: Bundle, probes: list[Probe], threads: int) -> None:
    """Records what the engine answers here, to be replayed at every start."""
    tell("recording golden vectors", 0.0)
    with closing(Engine.open(bundle, threads=threads, replay_golden=False)) as engine:
        prompts = [list(probe.ids[: probe.prompt_tokens]) for probe in probes[:4]]
        write_json(bundle.golden_path, golden.record(engine, prompts, [BASE, *bundle.manifest.adapters]))
    bundle.write_manifest(bundle.manifest.model_copy(update={"golden": hashes(bundle.folder, "golden")}))


def replace(stage: Path, out: Path) -> None:
    """Moves a finished bundle into its place; one that stood there is removed only then."""
    old = out.parent / f".{out.name}.old"
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    stage.rename(out)
    shutil.rmtree(old, ignore_errors=True)


_told = ""


def tell(what: str, share: float) -> None:
    """Progress of the export, a line a stage."""
    global _told
    if what != _told:
        _told = what
        say(f"  {what}")
