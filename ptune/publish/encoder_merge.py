"""Merges an encoder's adapter into its weights, compares it with the live adapter, saves a plain model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ptune.backbone.classifier import plain_tokenizer
from ptune.backbone.image_model import save_processor
from ptune.codecs.sequence import SequenceCodec
from ptune.config.classification import ImageClassification
from ptune.config.recipe import Backbone
from ptune.errors import ParityError
from ptune.formats.bundle import Hop
from ptune.formats.whole_write import whole_folder
from ptune.publish.figures import figures
from ptune.publish.publishable import FinishedRun
from ptune.tasks.encoder.facts import Facts
from ptune.tasks.retrieval.sentence_transformers import save_modules
from ptune.verify.encoder.compare import compare_said
from ptune.verify.encoder.torch_side import EncoderReference, Inputs, logits, merged, reference
from ptune.verify.reference import adapted

FOLDER = "merged"  # in the run's folder


@dataclass(frozen=True)
class TrainedEncoder:
    """A trained encoder, the source of a bundle."""

    backbone: Backbone  # where the body's weights are
    loaded: EncoderReference
    adapter: Path | None  # PEFT's folder; None if `loaded` holds all trained weights
    hops: tuple[Hop, ...]  # measured so far

    @classmethod
    def open(cls, run: FinishedRun) -> TrainedEncoder:
        """Opens a run. Raises: BackboneError if its base has changed."""
        facts, backbone = Facts.of_run(run.files), run.backbone()
        loaded = reference(backbone, facts)
        facts.check_base(run.files, loaded.identity)
        adapter = run.files.adapter_path if run.files.has_adapter else None
        return cls(backbone, _with_its_hash(loaded), adapter, tuple(run.record.hops))

    def merge(self, run: FinishedRun, inputs: Sequence[Inputs], place: Path | None = None) -> TrainedEncoder:
        """Merges the adapter in float32, saves the model in `place` and loads it from there. This one is used up.

        place: default: RUN/merged. An embedding model's folder also opens in sentence-transformers.
        inputs: held-out inputs, on which the merged model is compared with the live adapter.
        Raises: ParityError, and saves nothing, if they differ.
        """
        if self.adapter is None:
            return self
        facts, recipe = self.loaded.facts, run.recipe
        live = adapted(self.loaded.model, self.adapter)
        before = logits(live, inputs)
        plain = merged(live)
        hop = compare_said("live adapter → merged", facts.problem, before, logits(plain, inputs))
        if not hop.passed:
            raise ParityError(
                f"{hop.name}: {figures(hop)}, but the limit is {hop.limit}: export without --merge"
            )
        place = place or run.files.folder / FOLDER
        with whole_folder(place) as part:
            plain.save_pretrained(part)
            if isinstance(recipe.task, ImageClassification):
                save_processor(recipe.backbone, recipe.task.size, part)
            else:
                codec = SequenceCodec.open(run.files.codec_path)
                plain_tokenizer(codec, facts.max_length).save_pretrained(part)
            if facts.embedding is not None:
                save_modules(facts, part)
            facts.save(part)
        backbone = recipe.backbone.saved_at(place).model_copy(update={"dtype": "float32"})
        return TrainedEncoder(backbone, _with_its_hash(reference(backbone, facts)), None, (*self.hops, hop))


def _with_its_hash(loaded: EncoderReference) -> EncoderReference:
    """Sets the hash of the loaded body, which is new after training or merging."""
    return replace(loaded, facts=loaded.facts.model_copy(update={"base": loaded.identity.hash}))
