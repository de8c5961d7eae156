"""An embedding run: reads, examines and encodes rows; trains the body so that related texts have close vectors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedModel

from ptune.backbone.classifier import load_sequence_codec, plain_tokenizer
from ptune.backbone.embedder import load_embedder
from ptune.codecs.sequence import SequenceCodec
from ptune.config.recipe import Recipe
from ptune.config.retrieval import Embedding
from ptune.data.examples.pairs import PairData, PairExample, encoded_pairs
from ptune.data.shapes.pairs import read_pair_splits
from ptune.doctor.command_line import doctor_command
from ptune.doctor.pairs import judged
from ptune.errors import RecipeError
from ptune.formats.bundle import BaseIdentity, Hop
from ptune.formats.run import Run
from ptune.formats.task_names import FEATURE_EXTRACTION
from ptune.formats.whole_write import read_json
from ptune.progress import say
from ptune.tasks.encoder.facts import Facts
from ptune.tasks.encoder.saving import reloaded_hop, write_trained
from ptune.tasks.encoder.work import check_backbone
from ptune.tasks.retrieval.sentence_transformers import save_modules
from ptune.tasks.retrieval.train import EmbeddingObjective, padded_texts
from ptune.training.checkpoint import whole_state
from ptune.training.distributed import decided_by_one, sharded
from ptune.training.work import Base


@dataclass
class EmbeddingWork:
    """See `ptune.training.work.Work`."""

    recipe: Recipe
    codec: SequenceCodec
    data: PairData

    @property
    def task(self) -> Embedding:
        return embedding_of(self.recipe)

    def load(self, device: torch.device) -> Base:
        loaded = load_embedder(self.recipe.backbone, self.task.pooling, self.task.normalize, device=device)
        width = width_of(loaded.model)
        if any(size >= width for size in self.task.dimensions):
            raise RecipeError(
                f"task.dimensions {self.task.dimensions}: the vectors of {self.recipe.backbone.model} have {width} numbers:"
                " name smaller sizes, the whole vector is always trained"
            )
        return Base(loaded.model, loaded.identity)

    @contextlib.contextmanager
    def objective(self, base: PreTrainedModel, device: torch.device) -> Iterator[EmbeddingObjective]:
        yield self._objective(device)

    def save_codec(self, folder: Path) -> None:
        self.codec.save(folder)

    def save(self, run: Run, model: nn.Module, identity: BaseIdentity, *, writes: bool) -> Hop:
        state = whole_state(model) if sharded(model) else None
        if writes:
            facts = self._facts(model, identity)
            tokenizer = plain_tokenizer(self.codec, self.task.max_length)

            def complete(folder: Path) -> None:
                tokenizer.save_pretrained(folder)
                save_modules(facts, folder)

            write_trained(run, self.recipe, model, facts, identity, state, complete)
        if sharded(model):
            torch.distributed.barrier()  # nobody reads before it is written
        device = next(model.parameters()).device

        @torch.no_grad()
        def vectors(one: nn.Module, example: PairExample) -> torch.Tensor:
            inputs = padded_texts(example.texts, self.codec.pad_id, self.codec.type_ids, device)
            found: torch.Tensor = one(**inputs).logits
            return found

        held = self.data.splits["test"].examples or self.data.validation or self.data.train
        return reloaded_hop(model, run, lambda: self._again(run, identity), vectors, held, "vector")

    def _facts(self, model: nn.Module, identity: BaseIdentity) -> Facts:
        task = self.task
        return Facts(
            task=FEATURE_EXTRACTION,
            base=identity.hash,
            quantize=identity.quantize,
            labels=(),
            problem="vector",
            max_length=self.codec.limit(task.max_length),
            embedding={
                "width": width_of(model),
                "pooling": task.pooling,
                "normalize": task.normalize,
                "dimensions": list(task.dimensions),
            },
        )

    def _objective(self, device: torch.device) -> EmbeddingObjective:
        train = self.recipe.train
        return EmbeddingObjective(
            self.task.temperature,
            self.task.dimensions,
            train.batch_size,
            train.micro_batch_tokens,
            device,
            self.codec.pad_id,
            self.codec.type_ids,
        )

    def _again(self, run: Run, identity: BaseIdentity) -> nn.Module:
        """The model read back from model/."""
        saved = self.recipe.backbone.saved_at(run.model_path).model_copy(update={"dtype": identity.dtype})
        return load_embedder(saved, self.task.pooling, self.task.normalize).model


def prepare(recipe: Recipe, run: Run, accelerator: Accelerator, command: str) -> EmbeddingWork:
    """Prepares the run up to reading the weights. Raises: DataError, RecipeError, BackboneError."""
    task = embedding_of(recipe)
    check_backbone(recipe)
    if recipe.train.batch_size < 2:
        raise RecipeError(
            "train.batch_size is 1: the other rows of a batch are an anchor's wrong answers; use 16 or more"
        )
    codec = load_sequence_codec(recipe.backbone)
    splits = read_pair_splits(recipe.data, recipe.train.seed, task.columns)
    splits.check()
    data = encoded_pairs(splits, recipe.data, task, codec)
    if run.record_path.is_file():  # it was examined when it began
        findings = read_json(run.data_path).get("findings", [])
    else:
        findings = decided_by_one(accelerator, lambda: judged(splits, data, doctor_command(command)))
    for name, split in data.splits.items():
        if split.examples:
            say(f"{name}: {len(split.examples)} rows")
    return EmbeddingWork(recipe, codec, replace(data, summary={**data.summary, "findings": findings}))


def embedding_of(recipe: Recipe) -> Embedding:
    """The task of a recipe that is known to train embeddings."""
    assert isinstance(recipe.task, Embedding)
    return recipe.task


def width_of(model: nn.Module) -> int:
    """Length of a model's vectors."""
    return int(model.config.get_text_config().hidden_size)
