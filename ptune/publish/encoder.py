"""The steps of publishing that are specific to encoders; ptune.publish.pipeline calls them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from ptune.config.recipe import Backbone
from ptune.engine.encoder import golden
from ptune.engine.encoder.engine import EncoderEngine
from ptune.errors import AdapterError, UsageError
from ptune.export.encoder.parts import trace_body
from ptune.export.write import write_traced
from ptune.formats.bundle import BARE, BASE, FLOAT_CACHE, FP32, INT8, Bundle, CacheType, Hop
from ptune.publish.encoder_adapter import facts_of, install_encoder, refuse_socketless
from ptune.publish.encoder_held_out import HeldOutInputs, held_out_inputs
from ptune.publish.encoder_merge import TrainedEncoder
from ptune.publish.encoder_profiles import check_int8, save_held_out, write_profile
from ptune.publish.publishable import FinishedRun, Merge, Publishable
from ptune.publish.steps import check_base, refuse_rank, report_progress
from ptune.publish.unread_base import unread
from ptune.tasks.encoder.facts import Facts
from ptune.verify.encoder import held_texts
from ptune.verify.encoder.int8 import held_inputs, prove_int8
from ptune.verify.encoder.item_index import with_items
from ptune.verify.encoder.prove import prove_encoder
from ptune.verify.encoder.torch_side import EncoderReference, Inputs, reference
from ptune.verify.limits import PROBES
from ptune.verify.proof import Proof


@dataclass(frozen=True)
class CopiedCodec:
    """A run's codec, to be copied unchanged."""

    source: Path

    def save(self, folder: Path) -> None:
        """Copies it."""
        shutil.copytree(self.source, folder, dirs_exist_ok=True)


@dataclass(frozen=True)
class EncoderRun:
    """The sources of a bundle: the trained model, its codec, and held-out inputs."""

    trained: TrainedEncoder
    codec: CopiedCodec
    held_out: HeldOutInputs


@dataclass
class Encoder(Publishable):
    """An encoder in torch, whose adapters have their own heads, and the inputs on which its hops are compared."""

    profiles: ClassVar[tuple[str, ...]] = (INT8,)
    auto_profiles: ClassVar[tuple[str, ...]] = ()

    backbone: Backbone  # source of each adapter's reference, under its own head
    inputs: Sequence[Inputs]
    adapters: Mapping[str, Path | None] = field(default_factory=dict)
    earlier_hops: Mapping[str, Sequence[Hop]] = field(default_factory=dict)
    source: EncoderRun | None = None  # None if opened from a bundle
    original: Bundle | None = None  # the bundle it was opened from

    @classmethod
    def of_run(cls, run: FinishedRun, name: str, *, merge: bool, profiles: Sequence[str]) -> Encoder:
        """As `Publishable.of_run`. merge: the adapter becomes part of the body; only its head stays an adapter."""
        if INT8 in profiles:
            check_int8(run.files, Facts.of_run(run.files), merge)
        trained = TrainedEncoder.open(run)
        if merge and "items" in (trained.loaded.facts.embedding or {}):
            raise UsageError(
                f"{run.files.folder} recommends, and its items lie beside its adapter: export it without --merge"
            )
        most = held_texts.MOST if INT8 in profiles and trained.loaded.size is None else PROBES
        held_out = held_out_inputs(run, trained.loaded, most)
        if merge:
            report_progress("merging the adapter")
            trained = trained.merge(run, held_out.inputs)
        source = EncoderRun(trained, CopiedCodec(run.files.codec_path), held_out)
        return cls(trained.backbone, held_out.inputs, {name: trained.adapter}, {name: trained.hops}, source)

    @classmethod
    def of_bundle(cls, bundle: Bundle, backbone: Backbone) -> Encoder:
        """As `Publishable.of_bundle`."""
        return cls(backbone, golden.load_inputs(bundle.folder), original=bundle)

    @classmethod
    def merge(cls, run: FinishedRun, out: Path, dtype: str, limit: float) -> Merge:
        """As `Publishable.merge`, in float32; an embedding model's folder also opens in sentence-transformers."""
        if dtype != "float32":
            raise UsageError(f"--dtype {dtype} is for chat: an encoder is merged in float32")
        trained = TrainedEncoder.open(run)
        held_out = held_out_inputs(run, trained.loaded, PROBES)
        return Merge(trained.merge(run, held_out.inputs, out).hops[-1])

    def write_graphs(self, folder: Path, profiles: Sequence[str]) -> Bundle:
        """As `Publishable.write_graphs`."""
        assert self.source is not None
        trained, report = self.source.trained, report_progress
        loaded, trust = trained.loaded, self.backbone.trust_remote_code
        report("tracing the graph")
        sockets = trained.adapter is not None
        traced = trace_body(loaded.model, loaded.size, sockets=sockets, trust_remote_code=trust)
        return write_traced(folder, traced, self.source.codec, loaded.identity, report=report)

    def save_held_out(self, bundle: Bundle) -> None:
        """As `Publishable.save_held_out`."""
        golden.save_inputs(self.inputs, bundle.folder)

    def install(
        self,
        bundle: Bundle,
        adapter: Path | None,
        name: str,
        *,
        proved: bool = True,
        rank: int | None = None,
    ) -> None:
        """As `Publishable.install`. Without a proof, the base is read only if the adapter's head needs its weights."""
        if self.source is not None:
            loaded = self.source.trained.loaded
        else:
            assert adapter is not None
            loaded = self._reference_of(adapter, proved)
        refuse_rank(rank, bundle)
        install_encoder(bundle, adapter, name, loaded)

    def _reference_of(self, adapter: Path, proved: bool) -> EncoderReference:
        """Loads the model that an added adapter was trained on. Raises: AdapterError if it does not fit the bundle."""
        assert self.original is not None
        refuse_socketless(self.original)
        facts = facts_of(adapter, self.original)
        loaded = None if proved else unread(self.original, self.backbone, facts, adapter)
        if loaded is None:
            loaded = self._load(facts)
        for one in self.inputs[:1]:
            taken = one["pixel_values"].shape[1:] if "pixel_values" in one else None
            if taken != loaded.size:
                raise AdapterError(
                    f"{adapter} was trained on images of {loaded.size}; this bundle takes {taken}"
                )
        return loaded

    def _load(self, facts: Facts) -> EncoderReference:
        """Loads a reference. Raises: BackboneError if its body is not that of the original bundle."""
        loaded = reference(self.backbone, facts)
        if self.original is not None:
            check_base(self.original, loaded.identity)
        return loaded

    def golden(
        self, bundle: Bundle, profile: str, threads: int, cache: CacheType = FLOAT_CACHE
    ) -> dict[str, Any]:
        """As `Publishable.golden`."""
        names = list(bundle.manifest.adapters)
        if (
            not names or bundle.graph_path(profile).with_name(BARE).is_file()
        ):  # the base has a graph of its own
            names.append(BASE)
        opened = EncoderEngine.open(bundle, profile=profile, threads=threads, replay_golden=False)
        with closing(opened) as engine:
            return golden.record(engine, self.inputs, names, profile)

    def prove(self, bundle: Bundle, adapters: Sequence[str], threads: int) -> Proof:
        """As `Publishable.prove`; also proves the items beside adapters."""
        references = {name: partial(self._load, Facts.open(bundle.adapter_path(name))) for name in adapters}
        proof = prove_encoder(bundle, references, self.inputs, threads=threads, report=report_progress)
        return with_items(bundle, proof, threads)

    def save_held_out_for_profiles(self, bundle: Bundle) -> Path:
        """As `Publishable.save_held_out_for_profiles`."""
        assert self.source is not None
        save_held_out(bundle, self.source.held_out)
        return bundle.folder / held_texts.FILE  # for images, too

    def write_profile(self, bundle: Bundle, profile: str, threads: int) -> None:
        """As `Publishable.write_profile`."""
        assert self.source is not None
        write_profile(bundle, self.source.held_out.train, threads)

    def prove_profile(
        self,
        bundle: Bundle,
        profile: str,
        adapters: Sequence[str],
        threads: int,
        *,
        base: bool,
        to_the_end: bool,
    ) -> Proof:
        """As `Publishable.prove_profile`: one hop per adapter, since the bare body has no answers."""
        report_progress(f"the {profile} graph")
        hops = prove_int8(bundle, adapters, held_inputs(bundle), threads=threads)
        return Proof.of({name: (hop,) for name, hop in hops.items()})

    def default_profile(self, bundle: Bundle, profiles: Sequence[str], threads: int) -> str:
        """Always fp32: int8 is served only on request."""
        return FP32
