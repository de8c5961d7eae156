"""A chat run, opened for an engine that is not ours: its float32 reference, and held-out prompts to hold the engine to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ptune.backbone.kind import kind_of_run
from ptune.backbone.load import Loaded
from ptune.config.recipe import Backbone
from ptune.data.conversations import Conversation
from ptune.engine.adapters.fold.table import method_of
from ptune.engine.adapters.source import CONFIG
from ptune.errors import UsageError
from ptune.evaluation.no_better import refuse_no_better
from ptune.formats.bundle import Hop
from ptune.formats.run import Run
from ptune.formats.whole_write import read_json
from ptune.kinds import DECODER
from ptune.publish.decoder_run import LOOKED_AT, TrainedDecoder, reference
from ptune.publish.publishable import FinishedRun
from ptune.verify.limits import MAX_ABS_LOGPROB
from ptune.verify.llama_cpp import Messages
from ptune.verify.torch_side import Probe


@dataclass
class Exported:
    """What is exported: the float32 reference, the held-out prompts, and the adapter's folder."""

    loaded: Loaded
    probes: Sequence[Probe]
    name: str
    adapter: Path | None = None
    conversations: Sequence[Messages] = ()
    earlier: list[Hop] = field(default_factory=list)


def chat_run(run: Run, option: str, what: str, anyway: bool) -> FinishedRun:
    """Opens a finished run. option, what: asked for, in the words of a refusal. anyway: also one that is no better than a baseline.

    Raises: UsageError for one that is of no chat model.
    """
    finished = FinishedRun.open(run)
    if not anyway:
        refuse_no_better(run)
    if kind_of_run(run, finished.recipe) is not DECODER:
        raise UsageError(f"{option}: {run.folder} is no chat model, and only these are written as {what}")
    return finished


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
