"""The hops of a GGUF export: float32 → rounded weights in torch → llama.cpp → its server, tokenizer and chat template included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from ptune.codecs.chat import ChatCodec
from ptune.errors import PtuneError
from ptune.export.gguf.rounding import FOUR_BITS
from ptune.export.gguf.vocabulary import HARD
from ptune.formats.bundle import Hop
from ptune.llama_cpp.library import Llama
from ptune.llama_cpp.server import serving
from ptune.parity import Array, compare, liveness, log_softmax
from ptune.verify import limits
from ptune.verify.decoder.torch_side import Probe
from ptune.verify.same import OURS, Messages, renderable, same

WAIT_S = 120.0
FLOATS = ("F32", "F16")


@dataclass(frozen=True)
class Files:
    """What an export wrote for llama.cpp."""

    base: Path
    adapter: Path | None
    kind: str  # the type of the weights


def rounding_hop(name: str, before: Sequence[Array], after: Sequence[Array], kind: str) -> Hop:
    """Float32 against what is left of the weights in the file, both in torch."""
    if kind in FOUR_BITS:
        most, least = limits.INT4_KL, limits.INT4_TOP1
    else:
        most, least = limits.GGUF_KL.get(kind, limits.GGUF_KL["F16"])
    return compare(name, before, after, mean_kl=most, top1=least)


def llama_log_probs(
    library: Path, base: Path, adapter: Path | None, probes: Sequence[Probe], threads: int
) -> list[Array]:
    """Log-probabilities [len(wanted), vocab] of each probe in llama.cpp."""
    llama = Llama(library, base, threads, 1, max(len(probe.ids) for probe in probes), adapter)
    try:
        return [log_softmax(llama.logits(probe.ids)[list(probe.wanted)]) for probe in probes]
    finally:
        llama.close()


def llama_hop(name: str, torch_side: Sequence[Array], there: Sequence[Array], kind: str) -> Hop:
    """torch against llama.cpp on the same weights."""
    most, least = limits.LLAMA_CPP_KL, limits.LLAMA_CPP_TOP1
    if kind in FLOATS:
        most, least = limits.LLAMA_CPP_FLOAT_KL, limits.LLAMA_CPP_FLOAT_TOP1
    return compare(name, torch_side, there, mean_kl=most, top1=least)


def adapter_alive(
    torch_side: tuple[Sequence[Array], Sequence[Array]],
    there: tuple[Sequence[Array], Sequence[Array]],
    kind: str,
) -> Hop:
    """(adapter - base) in llama.cpp against torch. Each side is (base, adapter)."""
    limit = limits.LLAMA_CPP_FLOAT_LIVENESS if kind in FLOATS else limits.LLAMA_CPP_LIVENESS
    return liveness("adapter − base in llama.cpp", torch_side, there, limit)


def same_tokens(library: Path, base: Path, codec: ChatCodec, texts: Sequence[str]) -> Hop:
    """Texts, special tokens and ends of answers: the codec's against llama.cpp's tokenizer."""
    llama = Llama(library, base, 1, 0, 0)
    try:
        wrong = list[str]()
        checked = [*HARD, *dict.fromkeys(texts)]
        wrong += other_tokens(llama, codec, checked)
        known = set(range(llama.vocab))
        added = {
            token: one for token, one in codec.tokenizer.get_added_tokens_decoder().items() if token in known
        }
        wrong += [one.content for token, one in added.items() if llama.tokenize(one.content) != [token]]
        endless = [
            codec.token_text(token) for token in sorted(codec.eos_ids & known) if not llama.ends(token)
        ]
    finally:
        llama.close()
    count = len(checked) + len(added)
    notes = [f"other tokens of {one[:40]!r}" for one in wrong[:1]]
    notes += [f"answers do not end at {', '.join(endless)}"] if endless else []
    return same("tokenizer → llama.cpp's", count, len(wrong), notes, passed=not notes)


def other_tokens(llama: Llama, codec: ChatCodec, texts: Sequence[str]) -> list[str]:
    """The texts of which llama.cpp makes other tokens than the codec, alone or with what stands around a text."""
    return [
        text
        for text in texts
        if any(
            llama.tokenize(text, special=False, whole=whole) != codec.encode_text(text, special=whole)
            for whole in (False, True)
        )
    ]


def same_prompts(files: Files, codec: ChatCodec, conversations: Sequence[Messages], threads: int) -> Hop:
    """Tokens that llama-server makes of conversations, with its own Jinja, against the codec's."""
    known = [*renderable(codec, [*OURS, *conversations])]
    wrong: list[str] = []
    longest = max(len(ids) for _, ids in known)
    with serving(files.base, files.adapter, threads=threads, context=longest + 64) as url:
        for messages, ids in known:
            if _server_tokens(url, messages) != ids:
                wrong.append(str(messages[0]["role"]))
        messages, ids = known[0]
        asked = _post(
            url, "/v1/chat/completions", {"messages": [*messages], "max_tokens": 1, "temperature": 0}
        )
        if asked["usage"]["prompt_tokens"] != len(ids):
            wrong.append(f"{asked['usage']['prompt_tokens']} tokens asked, not {len(ids)}")
    notes = [f"other tokens of a conversation that begins with: {one}" for one in wrong[:1]]
    return same("chat template → llama-server's", len(known), len(wrong), notes, passed=not wrong)


def _server_tokens(url: str, messages: Messages) -> list[int]:
    text = _post(url, "/apply-template", {"messages": [*messages]})["prompt"]
    asked = {"content": text, "add_special": True, "parse_special": True}
    return [int(token) for token in _post(url, "/tokenize", asked)["tokens"]]


def _post(url: str, path: str, body: Mapping[str, Any]) -> Any:
    answer = httpx.post(url + path, json=body, timeout=WAIT_S, trust_env=False)
    if answer.is_error:
        raise PtuneError(f"llama-server refuses {path}: {answer.text[:400]}")
    return answer.json()
