"""The hops of an export for onnxruntime-genai: torch → its graph, torch + peft → the graph and an adapter, tokenizer, template."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptune.codecs.chat import ChatCodec
from ptune.errors import PtuneError, in_one_line
from ptune.export.gguf.vocabulary import HARD
from ptune.formats.bundle import Hop
from ptune.formats.genai_export import SETTINGS
from ptune.formats.whole_write import read_json
from ptune.parity import Array, log_softmax
from ptune.verify.decoder.torch_side import Probe
from ptune.verify.same import OURS, Messages, renderable, same

ACTIVE = "adapter"
OWN_TOKENS = "other tokens are told"


class Genai:
    """An exported folder, opened by onnxruntime-genai. adapter: its `.onnx_adapter`, or none."""

    def __init__(self, folder: Path, adapter: Path | None = None) -> None:
        """Raises: PtuneError where onnxruntime-genai does not open them."""
        import onnxruntime_genai

        self._genai = onnxruntime_genai
        self.ends: list[int] = _listed(read_json(folder / SETTINGS)["model"]["eos_token_id"])
        try:
            self._model = onnxruntime_genai.Model(str(folder))
            self._adapters = onnxruntime_genai.Adapters(self._model)
            if adapter is not None:
                self._adapters.load(str(adapter), ACTIVE)
            self._tokenizer = onnxruntime_genai.Tokenizer(self._model)
        except Exception as error:  # onnxruntime-genai's errors have no type of their own
            raise PtuneError(f"onnxruntime-genai does not open {folder}: {in_one_line(error)}") from error
        self._active = adapter is not None

    def log_probs(self, probe: Probe) -> Array:
        """Log-probabilities [len(wanted), vocab] of a probe, its answer behind the keys and values of its prompt."""
        generator = self._generator(len(probe.ids) + 1)
        cuts = sorted({0, min(probe.prompt_tokens, len(probe.ids)), len(probe.ids)})
        pieces: list[NDArray[Any]] = []
        try:
            for start, end in itertools.pairwise(cuts):
                generator.append_tokens(np.array([probe.ids[start:end]], np.int32))
                pieces.append(np.array(generator.get_output("logits")[0], np.float32))
        except Exception as error:
            raise PtuneError(f"onnxruntime-genai does not run it: {in_one_line(error)}") from error
        return log_softmax(np.concatenate(pieces)[list(probe.wanted)])

    def greedy(self, ids: Sequence[int], count: int) -> list[int]:
        """The most probable tokens that follow, up to an end or `count`."""
        generator = self._generator(len(ids) + count)
        generator.append_tokens(np.array([ids], np.int32))
        while not generator.is_done():
            generator.generate_next_token()
        return [int(token) for token in generator.get_sequence(0)[len(ids) :]]

    def tokens(self, text: str) -> list[int]:
        """Tokens of a text, with what the tokenizer puts around it."""
        return [int(token) for token in self._tokenizer.encode(text)]

    def rendered(self, messages: Messages) -> str:
        """A conversation as onnxruntime-genai renders it, with its own Jinja, from the folder's chat template."""
        said = json.dumps([*messages], ensure_ascii=False)
        return str(self._tokenizer.apply_chat_template(said, add_generation_prompt=True))

    def _generator(self, longest: int) -> Any:
        parameters = self._genai.GeneratorParams(self._model)
        parameters.set_search_options(max_length=longest, do_sample=False, batch_size=1)
        generator = self._genai.Generator(self._model, parameters)
        if self._active:
            generator.set_active_adapter(self._adapters, ACTIVE)
        return generator


def same_tokens(genai: Genai, codec: ChatCodec, texts: Sequence[str]) -> Hop:
    """Texts, held-out and hard to split, as onnxruntime-genai's own tokenizer splits them; and where answers end.

    Other tokens are told and not refused: the graph takes tokens, which the folder's tokenizer.json gives in its own library.
    """
    ours = (str(turn["content"]) for messages in OURS for turn in messages)
    asked = [*dict.fromkeys((*texts, *HARD, *ours))]
    wrong = [text for text in asked if genai.tokens(text) != codec.encode_text(text)]
    endless = [codec.token_text(token) for token in sorted(codec.eos_ids - {*genai.ends})]
    notes = [f"other tokens of {one[:40]!r}" for one in wrong[:1]]
    notes += [f"answers do not end at {', '.join(endless)}"] if endless else []
    limit = f"{OWN_TOKENS}; the same ends"
    return same(
        "tokenizer → onnxruntime-genai's", len(asked), len(wrong), notes, limit=limit, passed=not endless
    )


def same_texts(genai: Genai, codec: ChatCodec, conversations: Sequence[Messages]) -> Hop:
    """Conversations as onnxruntime-genai renders the chat template, in the tokens of the training's tokenizer."""
    known, wrong = [*renderable(codec, (*OURS, *conversations))], list[str]()
    for messages, ids in known:
        try:
            text = genai.rendered(messages)
        except Exception as error:
            wrong.append(f"it does not render: {in_one_line(error)}")
            continue
        if codec.tokenizer.encode(text, add_special_tokens=False).ids != ids:
            wrong.append(f"another text of a conversation that begins with {messages[0]['role']}")
    title = "chat template → onnxruntime-genai's"
    return same(title, len(known), len(wrong), wrong[:1], limit="the same texts", passed=not wrong)


def _listed(ends: int | list[int]) -> list[int]:
    return [ends] if isinstance(ends, int) else ends
