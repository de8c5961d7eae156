"""A trained decoder: opens a chat run on its float32 reference, and merges its adapter into it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel
from safetensors import safe_open
from transformers import PreTrainedModel

from ptune.backbone.float32 import in_float32
from ptune.backbone.image_rows import show
from ptune.backbone.load import Loaded, load
from ptune.backbone.tokenizer import transformers_tokenizer
from ptune.codecs.album import Album
from ptune.codecs.chat import ChatCodec, Example
from ptune.codecs.vision import FIRST_ROW, has_images
from ptune.config.recipe import Backbone
from ptune.data.shapes.conversations import Askable, Conversation
from ptune.engine.adapters.source import CONFIG
from ptune.engine.memory import trim
from ptune.errors import ParityError, UsageError
from ptune.evaluation.held_out import held_out
from ptune.export.merge import mergeable_here, merged, merged_of_any, with_plain_weights
from ptune.formats.parity_json import WEIGHTS
from ptune.formats.signature import TURN_GROUP, EndKind
from ptune.formats.whole_write import read_json, whole_folder
from ptune.parity import compare
from ptune.publish.figures import figures
from ptune.publish.parity_file import leave_parity
from ptune.publish.publishable import FinishedRun, Merge
from ptune.publish.steps import check_runs_base
from ptune.verify.decoder import probes as probing
from ptune.verify.decoder.torch_side import Probe, logprobs
from ptune.verify.parity_reference import prompts_of

LOOKED_AT = 64  # conversations among which short ones are looked for


@dataclass(frozen=True)
class TrainedDecoder:
    """A finished run, opened: the float32 reference of its base, and its training codec."""

    run: FinishedRun
    backbone: Backbone
    loaded: Loaded
    held_out: Sequence[Example]
    probes: list[Probe]
    conversations: Sequence[Askable]  # behind the examples
    images: Album | None = None  # of the conversations, where the model sees any

    @classmethod
    def open(cls, run: FinishedRun) -> TrainedDecoder:
        """Raises: BackboneError if its base has changed; DataError if its data has."""
        if run.files.has_adapter:
            backbone = run.recipe.backbone.model_copy(update={"dtype": run.record.base.dtype})
        else:
            trust = run.recipe.backbone.trust_remote_code
            backbone = Backbone(model=str(run.files.model_path), trust_remote_code=trust)
        loaded = reference(backbone)
        if run.files.has_adapter:
            check_runs_base(run.files, loaded.identity, run.record.base.hash)
        loaded = replace(loaded, codec=ChatCodec.open(run.files.codec_path))
        held = held_out(run.files)
        probes = probing.of_examples(held.examples, loaded.codec)
        show(loaded.model, held.images, loaded.codec, loaded.identity.hash)
        return cls(run, backbone, loaded, held.examples, probes, held.conversations, held.images)

    def base(self) -> Loaded:
        """The reference as a bundle holds it: without rows for the run's new tokens, which are the adapter's own."""
        tokens, codec = self.run.recipe.backbone.new_tokens, self.loaded.codec
        if not self.run.files.has_adapter or not tokens:
            return self.loaded
        plain = reference(self.backbone.model_copy(update={"new_tokens": ()}))
        source = None if codec.template is None else codec.template.source
        return replace(plain, codec=plain.codec.with_template(source, system=codec.system))

    def leave_parity(self) -> None:
        """Writes parity.json beside the run's adapter, so that any engine can be held to it."""
        loaded, first = self.loaded, self.conversations[:LOOKED_AT]
        asked = [one.messages for one in first if isinstance(one, Conversation) and not one.tools]
        asked = [messages for messages in asked if not has_images(messages)]
        prompts = prompts_of(loaded.codec, asked)
        leave_parity(self.run.files.adapter_path, loaded.model, loaded.codec, self.run.record.base, prompts)

    def merge(self, out: Path, dtype: str, limit: float) -> Merge:
        """Merges the adapter into the dequantised base and saves a plain transformers folder. This one is used up.

        Raises: ParityError, and saves nothing, if the merge lost more than `limit` (max |Δ log p|).
        """
        if self.loaded.codec.vision is not None:
            raise UsageError(
                f"{self.run.files.folder} is of a model that sees images: its adapter is served beside it, and not merged yet"
            )
        adapter = str(self.run.files.adapter_path)
        ours = mergeable_here(PeftConfig.from_pretrained(adapter))
        if not ours:
            with_plain_weights(self.loaded.model)
        live = PeftModel.from_pretrained(self.loaded.model, adapter).eval()
        before = logprobs(live, self.probes)
        with whole_folder(out) as part:
            wanted = getattr(torch, dtype)
            plain, lost = merged(live, wanted, part) if ours else merged_of_any(live, wanted)
            assert isinstance(plain, PreTrainedModel)
            plain.save_pretrained(part)
            transformers_tokenizer(self.loaded.codec).save_pretrained(part)
            in_float32(plain)
            after = logprobs(plain, self.probes)  # the saved weights, computed in float32
            hop = compare("live adapter → merged", before, after, max_abs_logprob=limit)
            if not hop.passed:
                raise ParityError(
                    f"merging in {dtype} loses too much: {figures(hop)}, but the limit is {hop.limit}; the update itself "
                    f"is off by {lost:.1%}. Use --dtype float32, or serve the adapter unmerged, or accept it with --limit"
                )
        return Merge(hop, lost)


def reference(backbone: Backbone) -> Loaded:
    """Loads the float32 reference on the CPU, which the served model must match."""
    loaded = load(backbone, attention="sdpa", device="cpu")
    in_float32(loaded.model)
    trim()  # what quantising it has left
    return loaded


def base_with(codec: ChatCodec, backbone: Backbone) -> Loaded:
    """Loads the float32 reference, without rows for new tokens, and gives it a codec."""
    return replace(reference(backbone.model_copy(update={"new_tokens": ()})), codec=codec)


def ends_of(adapter: Path, model: PreTrainedModel) -> tuple[EndKind, ...]:
    """What a run's adapter brings at the ends of its base, by the names in its file."""
    with safe_open(adapter / WEIGHTS, "np") as file:
        names = [*file.keys()]
    head = next(name for name, module in model.named_modules() if module is model.get_output_embeddings())
    signs: dict[EndKind, tuple[str, ...]] = {
        "head": (f"base_model.model.{head}.lora_",),
        "embedding": (".lora_embedding_",),
        "tokens": (".token_adapter.",),
        "biases": (".lora_B.bias",),
        "gains": (".lora_magnitude_vector", ".ia3_l"),
        "turns": (".road_theta",),
    }
    return tuple(kind for kind, some in signs.items() if any(sign in name for sign in some for name in names))


def turn_group_of(adapter: Path) -> int:
    """The outputs of a group of an adapter's turns."""
    return int(read_json(adapter / CONFIG).get("group_size") or TURN_GROUP)


def within(ids: Sequence[int], vocab: int) -> tuple[int, ...]:
    """Tokens of a base with `vocab` of them: an adapter's own give way to some of the base's; rows of images stay."""
    return tuple(token if token < vocab or token >= FIRST_ROW else token % vocab for token in ids)
