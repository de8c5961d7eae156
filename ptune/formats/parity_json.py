"""parity.json, format 1: what an adapter answers, in numbers that any engine can be held to. It lies beside PEFT's own files.

    format          1
    base            whose weights: ptune.formats.bundle.BaseIdentity
    adapter         rank, alpha, rslora, scale (of the first layer) and the SHA-256 of adapter_model.safetensors
    template        SHA-256 of the chat template's source, and `system` of the system message; null where there is none
    chat_template_kwargs  variables of the chat template that the conversations were rendered with
    versions        of torch, transformers and peft, which computed the rest in float32 on the base, dequantised
    bos             the token that may begin a text; null where the tokenizer has none
    variants        names of what was computed: adapter, base, x0.25, x0.5, x2, x4 (the adapter's update times that), and where
                    there is a BOS, its mistakes: without_bos, extra_bos (the prompt without it, or with one more)
    texts           token -> how it is spelled, for engines that name tokens by their text
    prompts         of each held-out prompt
      ids           its tokens
      text          the same as text, special tokens spelled out
      messages      the conversation that the chat template makes these tokens of; null where the prompt is not one
      answer        tokens of the adapter's greedy continuation
      tokens        for each of these a few token ids: itself first, then those that the adapter and the base find most likely
      log_probs     variant -> for each position the log-probabilities (nats) of `tokens` there
    hops            beside a GGUF export: what was measured of its files, hop by hop
    digest          SHA-256 of everything else, as `digest_of` has it

Readers refuse another major format and ignore fields that they do not know.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ptune.errors import FormatError
from ptune.formats.bundle import BaseIdentity, Hop, parse
from ptune.formats.request_defaults import Variable
from ptune.formats.whole_write import read_json, sha256_of, write_text

FILE = "parity.json"
WEIGHTS = "adapter_model.safetensors"
FORMAT = 1
ADAPTER, NO_ADAPTER = "adapter", "base"
WITHOUT_BOS, EXTRA_BOS = "without_bos", "extra_bos"
LARGEST = 64 << 20  # bytes that are read


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class AdapterFacts(_Record):
    """Whose update it is, and by what its product of factors is multiplied."""

    sha256: str
    rank: int
    alpha: float
    rslora: bool = False
    scale: float


class ParityPrompt(_Record):
    """A held-out prompt, its greedy continuation, and log-probabilities along that."""

    ids: tuple[int, ...] = Field(min_length=1)
    text: str
    messages: tuple[dict[str, Any], ...] | None = None
    answer: tuple[int, ...] = Field(min_length=1)
    tokens: tuple[tuple[int, ...], ...]
    log_probs: dict[str, tuple[tuple[float, ...], ...]]


class Parity(_Record):
    """parity.json"""

    format: int = FORMAT
    base: BaseIdentity
    adapter: AdapterFacts
    template: str | None = None
    system: str | None = None
    chat_template_kwargs: dict[str, Variable] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    bos: int | None = None
    variants: tuple[str, ...]
    texts: dict[int, str]
    prompts: tuple[ParityPrompt, ...] = Field(min_length=1)
    hops: tuple[Hop, ...] = ()


def scale_of(variant: str) -> float | None:
    """What a variant multiplies the adapter's update by; None where it is another one's mistake."""
    if variant in (ADAPTER, NO_ADAPTER):
        return float(variant == ADAPTER)
    return float(variant[1:]) if variant.startswith("x") else None


def digest_of(value: dict[str, Any]) -> str:
    """SHA-256 of a file's fields but `digest`, as JSON with sorted keys and no spaces."""
    kept = {name: field for name, field in value.items() if name != "digest"}
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def write_parity(folder: Path, parity: Parity) -> None:
    """Writes FOLDER/parity.json whole."""
    value = json.loads(parity.model_dump_json())
    value["digest"] = digest_of(value)
    write_text(
        folder / FILE, json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False) + "\n"
    )


def read_parity(folder: Path) -> Parity:
    """Reads FOLDER/parity.json. Raises: FormatError where it is missing, damaged or of another format."""
    path = folder / FILE
    if path.is_file() and path.stat().st_size > LARGEST:
        raise FormatError(f"{path} is damaged: {path.stat().st_size:,} bytes, over {LARGEST:,}")
    value = read_json(path)
    parity = parse(Parity, value, path)
    if value.get("digest") != digest_of(value):
        raise FormatError(f"{path} is damaged: its fields do not hash to its digest")
    for number, prompt in enumerate(parity.prompts):
        shape = [len(tokens) for tokens in prompt.tokens]
        firsts = tuple(tokens[0] for tokens in prompt.tokens if tokens)
        wanted = {name: prompt.log_probs.get(name, ()) for name in parity.variants}
        fits = all([len(row) for row in rows] == shape for rows in wanted.values())
        if firsts != prompt.answer or not fits or not {ADAPTER, NO_ADAPTER} <= set(parity.variants):
            raise FormatError(
                f"{path} is damaged: prompt {number} has figures for other positions than its answer's"
            )
    return parity


def current_parity(folder: Path, base: BaseIdentity | None = None) -> Parity | None:
    """The file of an adapter's folder; None where it is missing, damaged, or is of other factors (or of another base)."""
    try:
        parity = read_parity(folder)
    except FormatError:
        return None
    weights = folder / WEIGHTS
    fits = not weights.is_file() or parity.adapter.sha256 == sha256_of(weights)
    return parity if fits and (base is None or parity.base.hash == base.hash) else None
