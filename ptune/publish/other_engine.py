"""A chat run, opened for an engine that is not ours: its float32 reference, and held-out prompts to hold the engine to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from peft import PeftModel

from ptune.backbone.kind import kind_of_backbone, kind_of_run
from ptune.backbone.load import Loaded
from ptune.config.recipe import Backbone
from ptune.data.shapes.conversations import Conversation
from ptune.engine.adapters.fold.table import method_of
from ptune.engine.adapters.source import CONFIG
from ptune.errors import UsageError
from ptune.evaluation.no_better import refuse_no_better
from ptune.formats.bundle import Hop, hashes
from ptune.formats.run import Run
from ptune.formats.whole_write import read_json
from ptune.kinds import DECODER, Kind
from ptune.parity import Array
from ptune.publish.decoder_run import LOOKED_AT, TrainedDecoder, reference
from ptune.publish.publishable import FinishedRun
from ptune.verify.decoder import probes as probing
from ptune.verify.decoder.torch_side import Probe, logprobs
from ptune.verify.limits import MAX_ABS_LOGPROB
from ptune.verify.parity_reference import prompts_of
from ptune.verify.proof import Proof
from ptune.verify.reference import adapted, biases_kept
from ptune.verify.same import Messages

NEAR = 32  # conversations whose texts are compared token by token
_LIBRARIES = ("torch", "transformers", "peft")


@dataclass
class Exported:
    """What is exported: the float32 reference, the held-out prompts, and the adapter's folder."""

    loaded: Loaded
    probes: Sequence[Probe]
    name: str
    adapter: Path | None = None
    conversations: Sequence[Messages] = ()
    earlier: list[Hop] = field(default_factory=list)

    @property
    def texts(self) -> list[str]:
        """What is said in the held-out conversations, whose tokens have to be the same there."""
        turns = (turn.get("content") for one in self.conversations[:NEAR] for turn in one)
        return [content for content in turns if isinstance(content, str)]

    @property
    def asked(self) -> list[Messages]:
        """The prompts of the held-out conversations, which have to be rendered as here."""
        prompts = prompts_of(self.loaded.codec, self.conversations)
        return [one.messages for one in prompts if one.messages is not None]

    def in_torch(
        self, seen: Callable[[PeftModel], None] = lambda _: None
    ) -> tuple[list[Array], list[Array] | None]:
        """Log-probabilities of the base, and of the base with its adapter if it has one, which `seen` is handed then."""
        model = self.loaded.model
        base = logprobs(model, self.probes)
        if self.adapter is None:
            return base, None
        with biases_kept(model):
            wrapped = adapted(model, self.adapter)
            try:
                with_adapter = logprobs(wrapped, self.probes)
                seen(wrapped)
            finally:
                wrapped.unload()
        return base, with_adapter

    def recorded(self, folder: Path, proof: Proof, *wheels: str) -> dict[str, Any]:
        """What the record of any such export says. wheels: those of the engine."""
        return {
            "base": self.loaded.identity,
            "files": hashes(folder),
            "versions": {name: version(name) for name in (*wheels, *_LIBRARIES)},
            "hops": tuple(proof.hops),
        }


def chat_run(run: Run, option: str, what: str, anyway: bool) -> FinishedRun:
    """Opens a finished run. option, what: asked for, in the words of a refusal. anyway: also one that is no better than a baseline.

    Raises: UsageError for one that is of no chat model.
    """
    finished = FinishedRun.open(run)
    if not anyway:
        refuse_no_better(run)
    _check_chats(kind_of_run(run, finished.recipe), run.folder, option, what)
    return finished


def check_chat_model(backbone: Backbone, option: str, what: str) -> None:
    """Raises: UsageError for a pretrained model that is of no chat model, before weights are read. option, what: see `chat_run`."""
    _check_chats(kind_of_backbone(backbone), backbone.model, option, what)


def _check_chats(kind: Kind, source: object, option: str, what: str) -> None:
    if kind is not DECODER:
        raise UsageError(f"{option}: {source} is no chat model, and only these are written as {what}")


def pretrained(backbone: Backbone, name: str) -> Exported:
    """Reads a pretrained model's reference."""
    loaded = reference(backbone)
    return Exported(loaded, probing.of_examples([], loaded.codec), name)


def refuse_other_methods(run: Run, option: str, adapters: str) -> None:
    """Raises: UsageError for an adapter that is no plain LoRA, before weights are read. adapters: what the engine calls its own."""
    config = read_json(run.adapter_path / CONFIG)
    name, method = method_of(config)
    if name != "LORA" or method is not None or config.get("use_dora"):
        raise UsageError(
            f"{option}: {run.folder} was trained by {'DoRA' if config.get('use_dora') else name}, and {adapters} are LoRA alone:"
            " add --merge"
        )


def opened(finished: FinishedRun, name: str, merge: bool) -> Exported:
    """Reads a run's reference. merge: with its adapter in the weights, in float32, which are left in RUN/merged."""
    run, trained = finished.files, TrainedDecoder.open(finished)
    asked = [
        one.messages
        for one in trained.conversations[:LOOKED_AT]
        if isinstance(one, Conversation) and not one.tools
    ]
    model = Exported(trained.loaded, trained.probes, name, conversations=asked)
    if run.has_adapter and merge:
        place, trust = run.folder / "merged", finished.recipe.backbone.trust_remote_code
        model.earlier = [trained.merge(place, "float32", MAX_ABS_LOGPROB).hop]
        merged = reference(Backbone(model=str(place), trust_remote_code=trust))
        model.loaded = replace(merged, codec=trained.loaded.codec)
    elif run.has_adapter:
        trained.leave_parity()
        model.adapter = run.adapter_path
        model.earlier = list(finished.record.hops)
    return model
