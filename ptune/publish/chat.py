"""From a run of chat, or a pretrained model, to a bundle that may be served, and more adapters into it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from ptune.backbone.load import Loaded, load
from ptune.backbone.tokenizer import transformers_tokenizer
from ptune.codecs.chat import ChatCodec
from ptune.config.recipe import Backbone, Recipe
from ptune.engine.adapters.folder import install
from ptune.engine.decoder import golden
from ptune.engine.decoder.engine import Engine
from ptune.errors import BackboneError, ParityError, UsageError
from ptune.evaluation.held_out import held_out
from ptune.export.graph_variants import write_lighter
from ptune.export.int4 import write_int4
from ptune.export.int8 import write_int8
from ptune.export.merge import merged
from ptune.export.nf4 import LEAST_TOKENS, write_nf4
from ptune.export.weights import ModelWeights
from ptune.export.write import write_bundle
from ptune.formats.bundle import BASE, FP32, INT4, INT8, NF4, AdapterRecord, Bundle, Graph, Hop, hashes
from ptune.formats.run import Run
from ptune.formats.whole_write import whole_folder, write_json
from ptune.parity import compare
from ptune.progress import say
from ptune.publish.steps import (
    AUTO,
    changed,
    check_base,
    check_finished,
    check_place,
    check_profiles,
    figures,
    of_manifest,
    refuse_drift,
    report_progress,
    settle,
)
from ptune.verify import held_tokens, profile
from ptune.verify import probes as probing
from ptune.verify.limits import MAX_ABS_LOGPROB
from ptune.verify.live import live_kernel_hops
from ptune.verify.proof import Proof
from ptune.verify.prove import prove
from ptune.verify.torch_side import Probe, logprobs

GOLDEN_PROMPTS, GOLDEN_TOKENS = 4, 64


@dataclass(frozen=True)
class Trained:
    """A finished run, opened: the float32 reference of its base, with the codec that it was trained with."""

    run: Run
    backbone: Backbone
    loaded: Loaded
    probes: list[Probe]

    @classmethod
    def open(cls, run: Run) -> Trained:
        """Raises: UsageError where the run is not finished; BackboneError where its base is no longer the same."""
        check_finished(run)
        record, recipe = run.record(), Recipe.load(run.recipe_path)
        if run.has_adapter:
            backbone = recipe.backbone.model_copy(update={"dtype": record.base.dtype})
        else:
            trust = recipe.backbone.trust_remote_code
            backbone = Backbone(model=str(run.model_path), trust_remote_code=trust)
        loaded = reference(backbone)
        if run.has_adapter and loaded.identity.hash != record.base.hash:
            raise BackboneError(
                f"{recipe.backbone.model} is not the base that {run.folder} was trained on: "
                f"its weights hash to {loaded.identity.hash[:12]}, the run's base to {record.base.hash[:12]}"
            )
        loaded = replace(loaded, codec=ChatCodec.open(run.codec_path))
        return cls(run, backbone, loaded, probing.of_examples(held_out(run).examples, loaded.codec))


def reference(backbone: Backbone) -> Loaded:
    """The float32 reference on the CPU: what torch says the served model should compute."""
    loaded = load(backbone, attention="sdpa", device="cpu", dequantized=True)
    return replace(loaded, model=loaded.model.float())


def export_chat_run(
    run: Run, out: Path, *, name: str, merge: bool = False, threads: int, profiles: Sequence[str] = (FP32,)
) -> Proof:
    """As `ptune.publish.export_run`, of a run of chat."""
    check_finished(run)
    held = held_out(run).examples if tuple(profiles) != (FP32,) else []
    options: dict[str, Any] = {
        "threads": threads,
        "profiles": profiles,
        "held": [example.ids for example in held],
    }
    if merge and run.has_adapter:
        place = run.folder / "merged"
        hop, _ = merge_run(run, place, "float32", force=True)
        trust = Recipe.load(run.recipe_path).backbone.trust_remote_code
        base = reference(Backbone(model=str(place), trust_remote_code=trust))
        base = replace(base, codec=ChatCodec.open(run.codec_path))
        probes = probing.of_examples(held_out(run).examples, base.codec)
        hops = {BASE: [hop]}
        return publish(base, {}, probes, out, before=hops, trust_remote_code=trust, **options)
    _refuse_new_tokens(run)
    trained = Trained.open(run)
    before, trust = list(run.record().hops), trained.backbone.trust_remote_code
    if not run.has_adapter:
        hops = {BASE: before}
        return publish(
            trained.loaded, {}, trained.probes, out, before=hops, trust_remote_code=trust, **options
        )
    before += live_kernel_hops(trained.backbone, trained.loaded.model, run.adapter_path, trained.probes)
    adapters, hops = {name: run.adapter_path}, {name: before}
    return publish(
        trained.loaded, adapters, trained.probes, out, before=hops, trust_remote_code=trust, **options
    )


def _refuse_new_tokens(run: Run) -> None:
    """Raises: UsageError where the run's adapter holds rows of the embedding, which is part of the graph."""
    tokens = Recipe.load(run.recipe_path).backbone.new_tokens
    if run.has_adapter and tokens:
        raise UsageError(
            f"{run.folder} was trained with new tokens ({', '.join(tokens)}), whose embeddings cannot be served beside"
            f" the base's: merge them into it with `ptune export {run.folder} --merge`"
        )


def export_backbone(
    backbone: Backbone,
    out: Path,
    *,
    force: bool = False,
    threads: int,
    profiles: Sequence[str] = (FP32,),
) -> Proof:
    """Exports a pretrained model without any adapter; `ptune add` brings adapters later."""
    check_place(out, force)
    check_profiles(profiles, auto=True)
    loaded = reference(backbone)
    trust = backbone.trust_remote_code
    probes = probing.of_examples([], loaded.codec)
    return publish(
        loaded, {}, probes, out, before={}, threads=threads, profiles=profiles, trust_remote_code=trust
    )


def merge_run(
    run: Run, out: Path, dtype: str, *, limit: float = MAX_ABS_LOGPROB, force: bool = False
) -> tuple[Hop, float]:
    """Merges a run's adapter into its dequantised base and saves a plain transformers folder.

    Returns the comparison of the saved weights with the live adapter, and the relative L2 error of the update.
    Raises: ParityError, and saves nothing, where the merge lost more than `limit` (max |Δ log p|).
    """
    if out.exists() and not force:
        raise UsageError(f"{out} exists already: choose another --out")
    trained = Trained.open(run)
    if not run.has_adapter:
        raise UsageError(f"{run.folder} has no adapter: its trained weights are in {run.model_path} already")
    live = PeftModel.from_pretrained(trained.loaded.model, str(run.adapter_path))
    before = logprobs(live, trained.probes)
    plain, lost = merged(live, getattr(torch, dtype))
    after = logprobs(plain.float(), trained.probes)  # what the saved weights hold, computed in float32
    hop = compare("live adapter → merged", before, after, max_abs_logprob=limit)
    if not hop.passed:
        raise ParityError(
            f"merging in {dtype} loses too much: {figures(hop)}, but the limit is {hop.limit}; the update itself is "
            f"off by {lost:.1%}. Use --dtype float32, or serve the adapter unmerged, or accept it with --limit"
        )
    assert isinstance(plain, PreTrainedModel)
    with whole_folder(out) as part:
        plain.to(getattr(torch, dtype)).save_pretrained(part)
        transformers_tokenizer(trained.loaded.codec).save_pretrained(part)
    return hop, lost


def publish(
    loaded: Loaded,
    adapters: Mapping[str, Path],
    probes: list[Probe],
    out: Path,
    *,
    before: Mapping[str, list[Hop]],
    threads: int,
    profiles: Sequence[str] = (FP32,),
    held: Sequence[Sequence[int]] = (),
    trust_remote_code: bool = False,
) -> Proof:
    """Writes, proves and moves a bundle into its place.

    before: hops that were measured earlier. held: sequences of tokens at which profiles are compared with fp32.
    """
    with whole_folder(out) as stage:
        bundle = write_bundle(
            stage,
            loaded.model.config,
            ModelWeights(loaded.model),
            loaded.codec,
            loaded.identity,
            trust_remote_code=trust_remote_code,
            report=report_progress,
        )
        probing.save(probes, stage)
        for name, folder in adapters.items():
            install(bundle, folder, name)
        write_golden(bundle, probes, threads)
        beside = Proof((), {})
        if tuple(profiles) != (FP32,):  # before the proof of fp32, which takes longer
            held_tokens.save(held_tokens.of_examples(held, loaded.codec), stage)
            beside = _with_profiles(bundle, profiles, probes, adapters, threads)
        proof = prove(bundle, loaded.model, adapters, probes, threads=threads, report=report_progress)
        proof = proof.after(before).then(beside)
        default = _default(bundle, profiles, threads)
        bundle.write_manifest(bundle.manifest.model_copy(update={"default_profile": default}))
        settle(bundle, proof)
    return proof


def _with_profiles(
    bundle: Bundle, profiles: Sequence[str], probes: list[Probe], adapters: Mapping[str, Path], threads: int
) -> Proof:
    """Writes the graphs beside fp32 that are asked for, and proves each: that which rounds most first.

    One that misses its gate is taken out again, and why is said. It is among the proof's refused ones where it was asked for
    by name.
    """
    auto, proof = tuple(profiles) == (AUTO,), Proof((), {})
    wanted = (INT4, INT8) if auto else profiles  # nf4 is never the fastest
    for name in (one for one in (INT4, INT8, NF4) if one in wanted):
        found = _with_profile(bundle, name, probes, adapters, threads, rounded_int4=not auto)
        if isinstance(found, Proof):
            proof = proof.then(found)
            continue
        say(f"{name} is left out: {found}")
        _remove_profile(bundle, name)
        if not auto:
            proof = proof.then(Proof((), {}, {name: found}))
    return proof


def _with_profile(
    bundle: Bundle,
    name: str,
    probes: list[Probe],
    adapters: Mapping[str, Path],
    threads: int,
    *,
    rounded_int4: bool,
) -> Proof | str:
    """Writes a graph beside fp32 into a bundle and proves it. Returns its proof, or why it may not stay.

    rounded_int4: whether int4 may stay where it had to round weights: that has to be asked for by name.
    """
    _write_profile(bundle, name, probes, threads)
    kept = bundle.manifest.graphs[name].kept
    if kept is not None and kept < 1 and not rounded_int4:
        return "its source is not in 4 bits, so its weights would be rounded"
    proof = _prove_profile(bundle, name, list(adapters), threads, to_the_end=False)
    try:
        refuse_drift(proof)
    except ParityError as error:
        return str(error)
    return proof


def _default(bundle: Bundle, profiles: Sequence[str], threads: int) -> str:
    """The profile that is served unless another is asked for: the first of those asked for that is in the bundle."""
    if tuple(profiles) == (AUTO,):
        return _fastest(bundle, threads)
    return next(name for name in profiles if name in bundle.manifest.graphs)


def _write_profile(bundle: Bundle, name: str, probes: list[Probe], threads: int) -> None:
    report_progress(f"writing the {name} graph")
    path, kept = bundle.folder / "graphs" / name / "model.onnx", None
    if name == INT4:
        kept = write_int4(bundle.graph_path(FP32), path).kept
    elif name == NF4:
        write_nf4(bundle.graph_path(FP32), path)
    else:
        write_int8(bundle.graph_path(FP32), path)
    write_lighter(path, bundle.decoder)
    least = LEAST_TOKENS if name == NF4 else 1
    graph = Graph(profile=name, files=hashes(bundle.folder, f"graphs/{name}"), kept=kept, least_tokens=least)
    graphs = {**bundle.manifest.graphs, name: graph}
    bundle.write_manifest(bundle.manifest.model_copy(update={"graphs": graphs}))
    write_golden(bundle, probes, threads, [name])


def _remove_profile(bundle: Bundle, name: str) -> None:
    shutil.rmtree(bundle.folder / "graphs" / name)
    bundle.golden_file(name).unlink()
    graphs = {one: graph for one, graph in bundle.manifest.graphs.items() if one != name}
    update = {"graphs": graphs, "golden": hashes(bundle.folder, "golden")}
    bundle.write_manifest(bundle.manifest.model_copy(update=update))


def _fastest(bundle: Bundle, threads: int) -> str:
    """The fastest profile here for one sequence."""
    speeds = {name: profile.seconds_a_token(bundle, name, threads) for name in bundle.manifest.graphs}
    say(", ".join(f"{name}: {1 / seconds:.1f} tokens/s" for name, seconds in speeds.items()))
    return min(speeds, key=speeds.__getitem__)


def _prove_profiles(bundle: Bundle, adapters: Sequence[str], threads: int, *, base: bool = True) -> Proof:
    """Every profile but fp32 against it."""
    proof = Proof((), {})
    for name in bundle.manifest.graphs:
        if name != FP32:
            proof = proof.then(_prove_profile(bundle, name, adapters, threads, base=base))
    return proof


def _prove_profile(
    bundle: Bundle, name: str, adapters: Sequence[str], threads: int, **options: bool
) -> Proof:
    """options: as `ptune.verify.profile.prove_profile` takes them."""
    held = held_tokens.load(bundle.folder)
    return profile.prove_profile(
        bundle, name, adapters, held, threads=threads, report=report_progress, **options
    )


def add_to_chat(
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
    with changed(original) as bundle:
        install(bundle, adapter, name)
        probes = probing.load(bundle.folder)
        write_golden(bundle, probes, threads)
        if prove_it:
            loaded = reference(of_manifest(bundle, backbone, trust_remote_code))
            check_base(original, loaded.identity)
            proof = prove(
                bundle, loaded.model, {name: adapter}, probes, threads=threads, report=report_progress
            )
            proof = Proof((), proof.adapters).then(_prove_profiles(bundle, [name], threads, base=False))
            settle(bundle, proof)
    return Bundle.open(original.folder).adapter(name)


def verify_chat(bundle: Bundle, backbone: Backbone, threads: int) -> Proof:
    """Measures every hop of a chat bundle again. Its files have been checked against their hashes."""
    loaded = reference(backbone)
    check_base(bundle, loaded.identity)
    adapters = {name: bundle.adapter_path(name) for name in bundle.manifest.adapters}
    probes = probing.load(bundle.folder)
    proof = prove(bundle, loaded.model, adapters, probes, threads=threads, report=report_progress)
    return proof.then(_prove_profiles(bundle, list(adapters), threads))


def write_golden(
    bundle: Bundle, probes: list[Probe], threads: int, profiles: Sequence[str] | None = None
) -> None:
    """Records what the engine answers here with each profile (default: all), to be replayed at every start."""
    report_progress("recording golden vectors")
    prompts = [probe.ids[: probe.prompt_tokens][-GOLDEN_TOKENS:] for probe in probes[:GOLDEN_PROMPTS]]
    for name in bundle.manifest.graphs if profiles is None else profiles:
        tolerance = golden.TOLERANCE if name in (FP32, NF4) else golden.ROUNDED
        with closing(Engine.open(bundle, profile=name, threads=threads, replay_golden=False)) as engine:
            vectors = golden.record(engine, prompts, [BASE, *bundle.manifest.adapters], tolerance)
        write_json(bundle.golden_file(name), vectors)
    bundle.write_manifest(bundle.manifest.model_copy(update={"golden": hashes(bundle.folder, "golden")}))
