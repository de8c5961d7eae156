"""The steps of publishing that are specific to encoder-decoders; ptune.publish.pipeline calls them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from ptune.backbone.seq2seq import Seq2Seq, load_seq2seq, load_seq2seq_codec
from ptune.codecs.seq2seq import Seq2SeqCodec
from ptune.config.recipe import Backbone
from ptune.config.translation import DESCRIBED
from ptune.data.examples.seq2seq import load_pairs
from ptune.engine.adapters.fold.fold import as_pairs
from ptune.engine.adapters.fold.layer import Base
from ptune.engine.adapters.folder import check_name, copy_adapter, write_record
from ptune.engine.adapters.lora import load_adapter
from ptune.engine.seq2seq import golden
from ptune.engine.seq2seq.engine import Seq2SeqEngine
from ptune.engine.seq2seq.golden import Pair
from ptune.errors import AdapterError, UsageError
from ptune.export.seq2seq.trace import trace_seq2seq
from ptune.export.seq2seq.write import write_seq2seq
from ptune.formats.bundle import BASE, FLOAT_CACHE, FP32, AdapterRecord, Bundle, CacheType, Hop, hashes
from ptune.formats.task_names import TRANSLATION
from ptune.formats.whole_write import disk_errors, whole_folder, write_json
from ptune.publish.base_weights import base_weights
from ptune.publish.publishable import FinishedRun, Merge, Publishable
from ptune.publish.steps import check_base, check_runs_base, refuse_rank, report_progress
from ptune.tasks.translation.facts import NAME, Seq2SeqFacts
from ptune.tasks.translation.seq2seq_work import translation_of
from ptune.verify.decoder.probes import WITHOUT_DATA
from ptune.verify.limits import PROBES
from ptune.verify.proof import Proof
from ptune.verify.seq2seq.prove import prove_seq2seq

LONGEST = 1024  # tokens of a source or target, if neither model nor tokenizer has a limit


@dataclass
class EncoderDecoder(Publishable):
    """An encoder-decoder in torch, and the pairs of texts on which its hops are compared. Its only profile is fp32."""

    profiles: ClassVar[tuple[str, ...]] = ()
    auto_profiles: ClassVar[tuple[str, ...]] = ()

    load: Callable[[], Seq2Seq]  # the reference
    pairs: Sequence[Pair]
    adapters: Mapping[str, Path | None] = field(default_factory=dict)
    earlier_hops: Mapping[str, Sequence[Hop]] = field(default_factory=dict)
    codec: Seq2SeqCodec | None = None  # None if opened from a bundle

    @classmethod
    def of_run(cls, run: FinishedRun, name: str, *, merge: bool, profiles: Sequence[str]) -> EncoderDecoder:
        """As `Publishable.of_run`."""
        if merge:
            raise UsageError(
                f"{run.files.folder} is of an encoder-decoder, whose adapters are served beside it: without --merge"
            )
        facts, loaded = Seq2SeqFacts.of_run(run.files), reference(run.backbone())
        adapters: dict[str, Path | None] = {}
        codec = Seq2SeqCodec.open(run.files.codec_path)
        pairs = _held_out_pairs(run, codec)
        if run.files.has_adapter:
            check_runs_base(run.files, loaded.identity, facts.base)
            adapters[name] = run.files.adapter_path
        else:  # no adapter brings the instruction of its sources
            codec = replace(codec, writing=codec.writing.model_copy(update={"system": facts.system}))
        hops = {name if adapters else BASE: run.record.hops}
        return cls(lambda: loaded, pairs, adapters, hops, codec)

    @classmethod
    def of_backbone(cls, backbone: Backbone) -> EncoderDecoder:
        """Opens a pretrained model, to be compared on our own texts. Raises: BackboneError."""
        codec = load_seq2seq_codec(backbone)
        texts = [codec.target(text, LONGEST).ids for text in WITHOUT_DATA]
        pairs = [Pair(*pair) for pair in zip(texts, texts[1:] + texts[:1], strict=True)]
        return cls(lambda: reference(backbone), pairs, codec=codec)

    @classmethod
    def of_bundle(cls, bundle: Bundle, backbone: Backbone) -> EncoderDecoder:
        """As `Publishable.of_bundle`."""

        def load() -> Seq2Seq:
            loaded = reference(backbone)
            check_base(bundle, loaded.identity)
            return loaded

        return cls(load, golden.load_pairs(bundle.folder))

    @classmethod
    def merge(cls, run: FinishedRun, out: Path, dtype: str, limit: float) -> Merge:
        """Raises: UsageError, since adapters of this kind are only served beside their base."""
        folder = run.files.folder
        raise UsageError(
            f"{folder} is of an encoder-decoder, whose adapters are served beside it: ptune export {folder}"
        )

    @cached_property
    def reference(self) -> Seq2Seq:
        """Loads the base in float32 on the CPU. Raises: BackboneError."""
        return self.load()

    def write_graphs(self, folder: Path, profiles: Sequence[str]) -> Bundle:
        """As `Publishable.write_graphs`."""
        assert self.codec is not None
        report_progress("tracing the graphs")
        traced = trace_seq2seq(self.reference.model, self.codec.texts.limit(None) or LONGEST)
        return write_seq2seq(folder, traced, self.codec, self.reference.identity, report=report_progress)

    def save_held_out(self, bundle: Bundle) -> None:
        """As `Publishable.save_held_out`."""
        golden.save_pairs(self.pairs, bundle.folder)

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
        refuse_rank(rank, bundle)
        install_seq2seq(bundle, adapter, name, base_weights(bundle, lambda: self.reference.model))

    def golden(
        self, bundle: Bundle, profile: str, threads: int, cache: CacheType = FLOAT_CACHE
    ) -> dict[str, Any]:
        """As `Publishable.golden`."""
        opened = Seq2SeqEngine.open(bundle, profile=profile, threads=threads, replay_golden=False)
        with closing(opened) as engine:
            return golden.record(engine, self.pairs, [BASE, *bundle.manifest.adapters])

    def prove(self, bundle: Bundle, adapters: Sequence[str], threads: int) -> Proof:
        """As `Publishable.prove`. The reference is used up."""
        model = self.reference.model
        return prove_seq2seq(bundle, model, self.pairs, threads=threads, report=report_progress)

    def save_held_out_for_profiles(self, bundle: Bundle) -> Path:
        """Never called: `profiles` is empty."""
        raise NotImplementedError

    def write_profile(self, bundle: Bundle, profile: str, threads: int) -> None:
        """Never called: `profiles` is empty."""
        raise NotImplementedError(profile)

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
        """Never called: `profiles` is empty."""
        raise NotImplementedError(profile)

    def default_profile(self, bundle: Bundle, profiles: Sequence[str], threads: int) -> str:
        """Returns the only profile, fp32."""
        return FP32


def reference(backbone: Backbone) -> Seq2Seq:
    """Loads the float32 reference on the CPU, which the served model must match."""
    loaded = load_seq2seq(backbone, device="cpu")
    return Seq2Seq(loaded.model.float(), loaded.identity)


def _held_out_pairs(run: FinishedRun, codec: Seq2SeqCodec) -> list[Pair]:
    """The first held-out pairs of a run, in tokens."""
    recipe = run.recipe
    data = load_pairs(recipe.data, translation_of(recipe), codec, recipe.train.seed)
    held = data.splits["test"].examples or data.validation or data.train
    return [Pair(one.source, one.target) for one in held[:PROBES]]


def install_seq2seq(bundle: Bundle, adapter: Path, name: str, base: Base | None = None) -> AdapterRecord:
    """Copies a PEFT folder into the bundle, checked socket by socket, still unmeasured; other types than LoRA are folded.

    Raises: UsageError for an invalid name; AdapterError that lists everything that does not fit.
    """
    check_name(name)
    facts = Seq2SeqFacts.open(adapter) if (adapter / NAME).is_file() else None
    if facts is not None and facts.base != bundle.manifest.base.hash:
        raise AdapterError(
            f"{adapter} was trained on another base ({facts.base[:12]}) than this bundle's"
            f" ({bundle.manifest.base.hash[:12]})"
        )
    place, sockets = bundle.adapter_path(name), {socket.name: socket for socket in bundle.seq2seq.sockets}
    with (
        as_pairs(adapter, sockets, base) as (folder, folded),
        disk_errors(place),
        whole_folder(place) as part,
    ):
        checked = load_adapter(folder, bundle.seq2seq)
        copy_adapter(folder, part, folded)
        record = AdapterRecord(
            name=name,
            task=TRANSLATION,
            files=hashes(part),
            rank=checked.rank,
            folded=folded,
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
