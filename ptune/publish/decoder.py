"""The steps of publishing that are specific to decoders; ptune.publish.pipeline calls them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from ptune.backbone.float32 import SMALL_BYTES, held_bytes
from ptune.backbone.load import Loaded
from ptune.codecs.album import Album
from ptune.config.recipe import Backbone
from ptune.engine.adapters.fold.fold import Limits
from ptune.engine.adapters.folder import install
from ptune.engine.adapters.safetensors import write_tensors
from ptune.engine.decoder import golden
from ptune.engine.decoder.engine import Engine
from ptune.engine.decoder.forms import Form, chosen, is_proved
from ptune.engine.memory import collect, trim
from ptune.engine.options import KernelChoice
from ptune.errors import UsageError
from ptune.export.decoder.graph_variants import write_lighter
from ptune.export.decoder.image_features import write_image_features
from ptune.export.decoder.int4 import write_int4
from ptune.export.decoder.int8 import write_int8
from ptune.export.decoder.int8_cache import write_int8_cache
from ptune.export.decoder.nf4 import LEAST_TOKENS, write_nf4
from ptune.export.weights import ModelWeights
from ptune.export.write import write_bundle
from ptune.formats.bundle import (
    BASE,
    FLOAT_CACHE,
    FP32,
    INT4,
    INT8,
    INT8_CACHE_SCALES,
    NF4,
    Bundle,
    CacheType,
    Hop,
    hashes,
)
from ptune.formats.signature import IMAGES, TURN_GROUP, EndKind
from ptune.planning.exportable import check_exportable
from ptune.progress import say
from ptune.publish.base_weights import base_weights
from ptune.publish.cache_scales import measured_scales
from ptune.publish.decoder_run import TrainedDecoder, base_with, ends_of, reference, turn_group_of, within
from ptune.publish.parity_file import leave_in_bundle
from ptune.publish.profiles import AUTO
from ptune.publish.publishable import FinishedRun, Merge, Publishable
from ptune.publish.steps import check_base, enter_caches, enter_graph, report_progress
from ptune.verify.decoder import cache as cache_gate
from ptune.verify.decoder import held_tokens, seen_images
from ptune.verify.decoder import probes as probing
from ptune.verify.decoder import profile as profiling
from ptune.verify.decoder.live import live_kernel_hops
from ptune.verify.decoder.prove import TorchSide, prove, torch_side
from ptune.verify.decoder.torch_side import Probe
from ptune.verify.limits import MAX_ABS_LOGPROB
from ptune.verify.proof import Proof

GOLDEN_PROMPTS, GOLDEN_TOKENS = 4, 64


@dataclass
class Decoder(Publishable):
    """A causal language model in torch, and the prompts on which its hops are compared."""

    profiles: ClassVar[tuple[str, ...]] = (INT4, INT8, NF4)
    auto_profiles: ClassVar[tuple[str, ...]] = (INT4, INT8)  # nf4 is never fastest
    caches: ClassVar[tuple[CacheType, ...]] = ("int8",)

    load: Callable[[], Loaded]  # reads the reference
    probes: Sequence[Probe]
    adapters: Mapping[str, Path | None] = field(default_factory=dict)
    earlier_hops: Mapping[str, Sequence[Hop]] = field(default_factory=dict)
    held_out: Sequence[Sequence[int]] = ()  # tokens on which profiles are compared with fp32
    trust_remote_code: bool = False
    ends: tuple[EndKind, ...] = ()  # what adapters may bring at the base's ends
    turn_group: int = TURN_GROUP  # of turns among that
    opened: Loaded | None = None  # the reference while it is in memory
    images: Album | None = None  # that the probes show, where the model sees any

    @classmethod
    def of_run(cls, run: FinishedRun, name: str, *, merge: bool, profiles: Sequence[str]) -> Decoder:
        """As `Publishable.of_run`."""
        check_exportable(run.backbone())
        if NF4 in profiles and (merge or run.recipe.backbone.quantize != NF4):
            raise UsageError(
                f"--profiles {','.join(profiles)}: nf4 is for the bytes of a base that was trained on in nf4, and"
                f" {run.files.folder} {'is merged' if merge else 'was not'}"
            )
        if merge and run.files.has_adapter:
            return cls._of_merged(run)
        trained = TrainedDecoder.open(run)
        adapters: dict[str, Path | None] = {}
        ends: tuple[EndKind, ...] = ()
        turn_group = TURN_GROUP
        hops = list(run.record.hops)
        if run.files.has_adapter:
            adapters[name] = run.files.adapter_path
            model = trained.loaded.model
            trained.leave_parity()
            hops += live_kernel_hops(trained.backbone, model, run.files.adapter_path, trained.probes)
            ends = ends_of(run.files.adapter_path, model)
            turn_group = turn_group_of(run.files.adapter_path) if "turns" in ends else TURN_GROUP
        loaded = trained.base()
        vocab = loaded.model.get_input_embeddings().weight.shape[0]
        probes = [replace(probe, ids=within(probe.ids, vocab)) for probe in trained.probes]
        probes, images = _with_images(probes, trained.images, loaded)
        return cls(
            partial(base_with, loaded.codec, trained.backbone),
            probes,
            adapters,
            {name if adapters else BASE: hops},
            [within(seen_images.words(example.ids), vocab) for example in trained.held_out],
            trained.backbone.trust_remote_code,
            ends,
            turn_group,
            loaded,
            images,
        )

    @classmethod
    def _of_merged(cls, run: FinishedRun) -> Decoder:
        """Merges a run's adapter into RUN/merged and opens that model."""
        place, trust = run.files.folder / "merged", run.recipe.backbone.trust_remote_code
        trained = TrainedDecoder.open(run)
        codec, probes, examples = trained.loaded.codec, trained.probes, trained.held_out
        hop = trained.merge(place, "float32", MAX_ABS_LOGPROB).hop
        del trained  # memory holds one model at a time
        merged = Backbone(model=str(place), trust_remote_code=trust)
        held_out = [example.ids for example in examples]
        return cls(partial(base_with, codec, merged), probes, {}, {BASE: [hop]}, held_out, trust)

    @classmethod
    def of_backbone(cls, backbone: Backbone) -> Decoder:
        """Opens a pretrained model, to be compared at prompts of our own. Raises: BackboneError."""
        check_exportable(backbone)
        loaded = reference(backbone)
        probes, images = _with_images(probing.of_examples([], loaded.codec), None, loaded)
        trust = backbone.trust_remote_code
        return cls(
            partial(reference, backbone), probes, trust_remote_code=trust, opened=loaded, images=images
        )

    @classmethod
    def of_bundle(cls, bundle: Bundle, backbone: Backbone) -> Decoder:
        """As `Publishable.of_bundle`."""

        def load() -> Loaded:
            loaded = reference(backbone)
            check_base(bundle, loaded.identity)
            return loaded

        return cls(load, probing.load(bundle.folder))

    @classmethod
    def merge(cls, run: FinishedRun, out: Path, dtype: str, limit: float) -> Merge:
        """As `Publishable.merge`."""
        return TrainedDecoder.open(run).merge(out, dtype, limit)

    @property
    def reference(self) -> Loaded:
        """The base in float32 on the CPU, read where it is not in memory. Raises: BackboneError."""
        if self.opened is None:
            self.opened = self.load()
        return self.opened

    def _make_room(self) -> None:
        """Drops a large reference before a graph is opened: memory holds one of them."""
        if self.opened is not None and held_bytes(self.opened.model) > SMALL_BYTES:
            self.opened = None
            collect()

    def write_graphs(self, folder: Path, profiles: Sequence[str]) -> Bundle:
        """As `Publishable.write_graphs`. Of nf4 alone no graph in float32 is written."""
        loaded = self.reference
        trim()  # what its first proofs have left
        bundle = write_bundle(
            folder,
            loaded.model.config,
            ModelWeights(loaded.model),
            loaded.codec,
            loaded.identity,
            ends=self._ends(loaded),
            turn_group=self.turn_group,
            profile=NF4 if tuple(profiles) == (NF4,) else FP32,
            trust_remote_code=self.trust_remote_code,
            report=report_progress,
        )
        if loaded.codec.vision is not None:
            report_progress("tracing the vision tower")
            write_image_features(folder, loaded.model, loaded.codec.vision)
            manifest = bundle.manifest.model_copy(update={"vision": hashes(folder, "vision")})
            bundle.write_manifest(manifest)
        return bundle

    def _ends(self, loaded: Loaded) -> tuple[EndKind, ...]:
        """What the graph needs at its ends. Raises: UsageError for what a model that sees images cannot have beside it."""
        if loaded.codec.vision is None:
            return self.ends
        if {"embedding", "tokens"} & {*self.ends}:
            raise UsageError(
                "--sockets: of a model that sees images, the embedding takes no adapters: leave out embedding and tokens"
            )
        return (*self.ends, IMAGES)

    def save_held_out(self, bundle: Bundle) -> None:
        """As `Publishable.save_held_out`."""
        probing.save(self.probes, bundle.folder)
        if self.images is not None:
            seen_images.save(self.images, bundle.folder)

    def install(
        self,
        bundle: Bundle,
        adapter: Path | None,
        name: str,
        *,
        proved: bool = True,
        rank: int | None = None,
    ) -> None:
        """As `Publishable.install`."""
        assert adapter is not None
        weights = base_weights(bundle, lambda: self.reference.model)
        install(bundle, adapter, name, weights, Limits(rank))
        if proved:
            leave_in_bundle(bundle, name, self.reference.model)

    def golden(
        self, bundle: Bundle, profile: str, threads: int, cache: CacheType = FLOAT_CACHE
    ) -> dict[str, Any]:
        """As `Publishable.golden`."""
        return self._recorded(bundle, profile, threads, cache, "exact")

    def own_golden(
        self, bundle: Bundle, profile: str, threads: int, cache: CacheType = FLOAT_CACHE
    ) -> dict[str, Any] | None:
        """As `Publishable.own_golden`."""
        form = Form.of(bundle, profile, cache, "own")
        if not is_proved(bundle, form):
            return None
        return {**self._recorded(bundle, profile, threads, cache, form.choice), "form": form.name}

    def served_forms(self, bundle: Bundle) -> Collection[str]:
        """As `Publishable.served_forms`."""
        graphs = bundle.manifest.graphs
        caches = [(name, cache) for name in graphs for cache in (FLOAT_CACHE, *graphs[name].kv_caches)]
        return {chosen(bundle, name, cache, "auto").name for name, cache in caches}

    def _recorded(
        self, bundle: Bundle, profile: str, threads: int, cache: CacheType, kernels: KernelChoice
    ) -> dict[str, Any]:
        asked = [
            seen_images.words(probe.ids[: probe.prompt_tokens]) for probe in self.probes[:GOLDEN_PROMPTS]
        ]
        prompts = [ids[-GOLDEN_TOKENS:] for ids in asked]
        self._make_room()
        exact = profile in (FP32, NF4) and cache == FLOAT_CACHE
        tolerance = golden.TOLERANCE if exact else golden.ROUNDED
        with closing(
            Engine.open(
                bundle,
                profile=profile,
                threads=threads,
                kv_cache_dtype=cache,
                kernels=kernels,
                replay_golden=False,
            )
        ) as engine:
            return golden.record(engine, prompts, [BASE, *bundle.manifest.adapters], tolerance)

    def prove(self, bundle: Bundle, adapters: Sequence[str], threads: int) -> Proof:
        """As `Publishable.prove`."""
        # Without a name here, so that `prove` can drop it.
        return prove(bundle, self._torch_side(bundle, adapters), threads=threads, report=report_progress)

    def _torch_side(self, bundle: Bundle, adapters: Sequence[str]) -> TorchSide:
        """What torch computes, after which a large reference is dropped."""
        folders = {name: bundle.adapter_path(name) for name in adapters}
        report_progress("torch, the reference")
        torch = torch_side(bundle, self.reference.model, folders, self.probes)
        self._make_room()
        return torch

    def save_held_out_for_profiles(self, bundle: Bundle) -> Path:
        """As `Publishable.save_held_out_for_profiles`."""
        held_tokens.save(held_tokens.of_examples(self.held_out, self.reference.codec), bundle.folder)
        return bundle.folder / held_tokens.FILE

    def write_profile(self, bundle: Bundle, profile: str, threads: int) -> None:
        """As `Publishable.write_profile`."""
        write_profile(bundle, profile)

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
        """As `Publishable.prove_profile`."""
        held = held_tokens.load(bundle.folder)
        return profiling.prove_profile(
            bundle,
            profile,
            adapters,
            held,
            threads=threads,
            base=base,
            to_the_end=to_the_end,
            report=report_progress,
        )

    def write_caches(self, bundle: Bundle, threads: int) -> None:
        """As `Publishable.write_caches`."""
        report_progress("measuring keys and values")
        scales = measured_scales(bundle, self.reference.codec, threads)
        for profile in bundle.manifest.graphs:
            write_int8_cache(bundle.graph_path(profile), scales)
            write_tensors(bundle.graph_path(profile).with_name(INT8_CACHE_SCALES), scales)
            enter_caches(bundle, profile, ("int8",))

    def prove_cache(
        self, bundle: Bundle, profile: str, adapters: Sequence[str], threads: int, *, base: bool
    ) -> Proof:
        """As `Publishable.prove_cache`."""
        held = held_tokens.load(bundle.folder)
        return cache_gate.prove_cache(
            bundle, profile, adapters, held, threads=threads, base=base, report=report_progress
        )

    def default_profile(self, bundle: Bundle, profiles: Sequence[str], threads: int) -> str:
        """The first requested profile that is in the bundle; for `auto` the fastest on this machine for one sequence."""
        if tuple(profiles) != (AUTO,):
            return next(name for name in profiles if name in bundle.manifest.graphs)
        speeds = {name: profiling.seconds_a_token(bundle, name, threads) for name in bundle.manifest.graphs}
        say(", ".join(f"{name}: {1 / seconds:.1f} tokens/s" for name, seconds in speeds.items()))
        return min(speeds, key=speeds.__getitem__)


def _with_images(
    probes: list[Probe], images: Album | None, loaded: Loaded
) -> tuple[list[Probe], Album | None]:
    """The probes and the images that they show, if the model sees any."""
    if loaded.codec.vision is None:
        return probes, None
    texts = probing.of_examples([], loaded.codec)
    return seen_images.numbered(probes, texts, images, loaded.codec)


def write_profile(bundle: Bundle, profile: str) -> None:
    """Writes the graph of a profile out of the float32 one, and enters it into the bundle."""
    report_progress(f"writing the {profile} graph")
    source, path = (bundle.folder / "graphs" / one / "model.onnx" for one in (FP32, profile))
    kept, least_tokens = None, 1
    if profile == INT4:
        kept = write_int4(source, path).kept
    elif profile == NF4:
        write_nf4(source, path)
        least_tokens = LEAST_TOKENS
    else:
        write_int8(source, path)
    write_lighter(path, bundle.decoder)
    enter_graph(bundle, profile, kept=kept, least_tokens=least_tokens)
