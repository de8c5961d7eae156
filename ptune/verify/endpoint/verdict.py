"""What an endpoint's log-probabilities say of it: right, or which fault explains them best.

Every fault was computed beforehand (ptune.formats.parity_json): the bare base, the adapter's update times other factors, a BOS too
few or too many. So the diagnosis compares distances that were measured: mean |Δ log p| between what the server says and what each
fault gives at the very same tokens. The factor of a wrong scale is where the server's figures lie nearest to the line through the
factors that were computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ptune.formats.parity_json import ADAPTER, EXTRA_BOS, NO_ADAPTER, WITHOUT_BOS, Parity, scale_of
from ptune.verify.endpoint.answers import Way

Kind = Literal[
    "right",
    "adapter not applied",
    "wrong scale",
    "wrong template",
    "missing BOS",
    "doubled BOS",
    "quantised",
    "cannot tell",
]
RIGHT_MEAN, RIGHT_MAX = 0.01, 0.1  # |Δ log p|: what 16-bit weights and caches round is below
TOLD_APART = 3.0  # times nearer to the adapter than to the bare base
EXPLAINS = 0.5  # of the distance to the adapter: what a fault leaves, at most, if it is the cause
SAME_SCALE = (0.8, 1.25)  # factors that are the noise of rounded weights
NO_SCALE = 0.15  # factors below are no adapter
QUANTISED_SAME, QUANTISED_KL = (
    0.7,
    0.3,
)  # greedy tokens, and nats a position: beyond, more than rounding is wrong

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Figures:
    """One way of asking in numbers, over every token that both the file and the server tell."""

    way: str
    compared: int  # log-probabilities
    positions: int
    max_abs: float
    mean_abs: float
    kl: float  # nats a position, over the tokens that were returned alone
    same: float  # share of positions whose likeliest token is the adapter's
    first_divergence: tuple[int, int] | None  # prompt and position
    distances: dict[str, float]  # variant -> mean |Δ log p|
    factor: float  # of the adapter's update
    residual: float  # mean |Δ log p| that this factor leaves


@dataclass(frozen=True)
class Verdict:
    """What is the matter, and why this is said."""

    kind: Kind
    because: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0 right, 1 wrong, 3 where it cannot be told."""
        return {"right": 0, "cannot tell": 3}.get(self.kind, 1)


def figures_of(way: Way, parity: Parity) -> Figures | None:
    """None where the server told no log-probability of any token of the file."""
    said, known = _vectors(way, parity)
    if not len(said):
        return None
    off = np.abs(said - known[ADAPTER])
    factor, residual = _fitted(said, known)
    different = [(one.prompt, one.position) for one in way.seen if not one.same]
    return Figures(
        way=way.name,
        compared=len(said),
        positions=len(way.seen),
        max_abs=float(off.max()),
        mean_abs=float(off.mean()),
        kl=float((np.exp(known[ADAPTER]) * (known[ADAPTER] - said)).sum() / len(way.seen)),
        same=sum(one.same for one in way.seen) / len(way.seen),
        first_divergence=min(different, default=None, key=lambda at: (at[1], at[0])),
        distances={name: float(np.abs(said - values).mean()) for name, values in known.items()},
        factor=factor,
        residual=residual,
    )


def _vectors(way: Way, parity: Parity) -> tuple[Vector, dict[str, Vector]]:
    """What the server says, and what each variant does, of the same tokens at the same positions."""
    said: list[float] = []
    known: dict[str, list[float]] = {name: [] for name in parity.variants}
    for one in way.seen:
        prompt = parity.prompts[one.prompt]
        for at, token in enumerate(prompt.tokens[one.position]):
            if token in one.log_probs:
                said.append(one.log_probs[token])
                for name, values in known.items():
                    values.append(prompt.log_probs[name][one.position][at])
    return np.array(said), {name: np.array(values) for name, values in known.items()}


def _fitted(said: Vector, known: dict[str, Vector]) -> tuple[float, float]:
    """The factor of the adapter's update that comes nearest (least squares), and the mean |Δ log p| that it leaves.

    Between two factors that were computed, log-probabilities are taken to lie on the straight line.
    """
    scales = {name: scale for name in known if (scale := scale_of(name)) is not None}
    best = (np.inf, 1.0, 0.0)
    for start, end in pairwise(sorted(scales, key=scales.__getitem__)):
        low, high = scales[start], scales[end]
        step = known[end] - known[start]
        share = float(step @ (said - known[start]) / max(float(step @ step), 1e-12))
        share = min(max(share, 0.0), 1.0)
        left = said - known[start] - share * step
        best = min(best, (float(left @ left), low + share * (high - low), float(np.abs(left).mean())))
    return best[1], best[2]


def judged(ways: Sequence[Way], parity: Parity) -> tuple[list[Figures], Verdict]:
    """Figures of each way that told any, and the verdict over all."""
    pairs = [(way, figures) for way in ways if (figures := figures_of(way, parity)) is not None]
    by_numbers = {way.endpoint: _by_numbers(figures, parity) for way, figures in pairs}
    chat = next((way for way in ways if way.endpoint == "chat"), None)
    weights, answered = by_numbers.get("completions"), by_numbers.get("chat")
    prompt = None if chat is None else _prompt_fault(chat, parity, answered)
    found = [verdict for verdict in (weights, prompt) if verdict is not None and verdict.kind != "right"]
    if not found and weights is not None and answered is not None and answered.kind != "right":
        found = [_chat_alone(answered)]
    if not found and weights is None and answered is not None and answered.kind != "right":
        found = [answered]
    if weights is None and prompt is not None and prompt.kind != "right":
        found = [prompt]  # an answer to another prompt says nothing of the weights
    told = [figures for _, figures in pairs]
    if found:
        certain = [one for one in found if one.kind != "cannot tell"] or found
        return told, Verdict(certain[0].kind, tuple(why for one in found for why in one.because))
    if not told:
        return told, Verdict("cannot tell", ("the server tells no log-probabilities of these tokens",))
    reasons = [verdict for verdict in (weights or answered, prompt) if verdict is not None]
    return told, Verdict("right", tuple(why for one in reasons for why in one.because))


def _by_numbers(found: Figures, parity: Parity) -> Verdict:
    """Which of the things that were computed the server's figures are nearest to."""
    off, base = found.mean_abs, found.distances[NO_ADAPTER]
    if off <= RIGHT_MEAN and found.max_abs <= RIGHT_MAX:
        if base >= TOLD_APART * off and base > 0:
            why = f"{found.way}: {off:.1e} from the adapter on average, {base:.1e} from the bare base"
            return Verdict("right", (why,))
        why = (
            f"{found.way}: the adapter and the bare base are too near each other to tell which one answers: the server is"
            f" {off:.1e} from the one, {base:.1e} from the other"
        )
        return Verdict("cannot tell", (why,))
    bos = {name: found.distances[name] for name in (EXTRA_BOS, WITHOUT_BOS) if name in found.distances}
    name = min(bos, key=bos.__getitem__, default=None)
    if found.factor <= NO_SCALE and base <= EXPLAINS * off and base <= bos.get(name or "", np.inf):
        why = f"{found.way}: the answers are the bare base's: {base:.1e} from it, {off:.1e} from the adapter"
        return Verdict("adapter not applied", (why,))
    if name is not None and bos[name] <= EXPLAINS * off and bos[name] < found.residual:
        kind: Kind = "doubled BOS" if name == EXTRA_BOS else "missing BOS"
        words = "with one BOS token more" if name == EXTRA_BOS else "without its BOS token"
        why = f"{found.way}: the answers are those to the prompt {words}: {bos[name]:.1e} from these, {off:.1e} from the right ones"
        return Verdict(kind, (why,))
    low, high = SAME_SCALE
    if not low <= found.factor <= high and found.residual <= EXPLAINS * off:
        return Verdict("wrong scale", (_scale_words(found, parity),))
    if (
        low <= found.factor <= high
        and found.same >= QUANTISED_SAME
        and found.kl <= QUANTISED_KL
        and off < base
    ):
        why = (
            f"{found.way}: the adapter is there (factor {found.factor:.2f}), with small errors everywhere, {off:.1e} on average"
            f" and {found.same:.0%} of greedy tokens the same: weights or activations are rounded, as in 4 or 8 bits"
        )
        return Verdict("quantised", (why,))
    nearest = min(found.distances, key=found.distances.__getitem__)
    why = f"{found.way}: nothing that was computed explains the answers; the nearest, {nearest}, is {found.distances[nearest]:.1e} off"
    return Verdict("cannot tell", (why,))


def _scale_words(found: Figures, parity: Parity) -> str:
    adapter = parity.adapter
    said = (
        f"{found.way}: the adapter's update is about {found.factor:.2f} times what it should be (this leaves"
        f" {found.residual:.1e} of {found.mean_abs:.1e})"
    )
    root = adapter.rank**0.5
    guesses = {
        "the factor lora_alpha / r is left out": 1 / adapter.scale if adapter.scale else 0.0,
        "rsLoRA's factor is taken for LoRA's": 1 / root if adapter.rslora else 0.0,
        "LoRA's factor is taken for rsLoRA's": 0.0 if adapter.rslora else root,
        "lora_alpha is doubled, or the adapter is applied twice": 2.0,
    }
    likely = [words for words, factor in guesses.items() if abs(found.factor - factor) <= 0.05 * factor]
    return said + (f": as if {' or '.join(likely)}" if likely else "")


def _prompt_fault(chat: Way, parity: Parity, answered: Verdict | None) -> Verdict | None:
    """What the server's template makes of the conversations, against the tokens of the file. None where it does not tell.

    answered: what its answers to them say.
    """
    expected = [prompt.ids for prompt in parity.prompts]
    counts = [count for count, _ in chat.prompts]
    ids = [list(told) if told else None for _, told in chat.prompts]
    if all(told is not None for told in ids):
        same = [told == list(right) for told, right in zip(ids, expected, strict=True)]
        if all(same):
            return Verdict(
                "right", ("chat: the server's template makes the same tokens of every conversation",)
            )
    elif all(counts):
        same = [count == len(right) for count, right in zip(counts, expected, strict=True)]
        if all(same):
            return _by_text(chat, parity)
    else:
        return _by_text(chat, parity) if chat.texts else None
    lengths = [len(told) if told is not None else count or 0 for told, count in zip(ids, counts, strict=True)]
    more = {length - len(right) for length, right in zip(lengths, expected, strict=True)}
    if (bos := _bos_fault(more, ids, parity, answered)) is not None:
        return bos
    at = same.index(False)
    why = (
        f"chat: the server makes {lengths[at]} tokens of a conversation of which the adapter's template makes"
        f" {len(expected[at])} ({same.count(False)} of {len(same)} conversations differ): it has another chat template"
    )
    return Verdict("wrong template", (why,))


def _bos_fault(
    more: set[int], ids: Sequence[list[int] | None], parity: Parity, answered: Verdict | None
) -> Verdict | None:
    """Whether every prompt has one token more or fewer, and that is the BOS: by its tokens, else by the answers."""
    bos = parity.bos
    begins = all(prompt.ids[0] == bos for prompt in parity.prompts)
    if bos is None or more not in ({1}, {-1}):
        return None
    for told, prompt in zip(ids, parity.prompts, strict=True):
        if told is not None and told != ([bos, *prompt.ids] if more == {1} else [*prompt.ids[1:]]):
            return None
    if None in ids and (answered is None or answered.kind not in ("missing BOS", "doubled BOS")):
        return None
    if more == {1}:
        what = "a second BOS token" if begins else "a BOS token that training did not have"
        return Verdict("doubled BOS", (f"chat: every prompt has one token more: {what}",))
    if begins:
        return Verdict("missing BOS", ("chat: every prompt lacks its BOS token",))
    return None


def _by_text(chat: Way, parity: Parity) -> Verdict:
    """Of a server that tells rendered texts or numbers of tokens alone."""
    texts = [
        (said, prompt.text)
        for said, prompt in zip(chat.texts, parity.prompts, strict=False)
        if said is not None
    ]
    bos = parity.texts.get(parity.bos, "") if parity.bos is not None else ""
    different = [
        1 for said, right in texts if said.removeprefix(bos).strip() != right.removeprefix(bos).strip()
    ]
    if different:
        why = f"chat: the server's template writes {len(different)} of {len(texts)} conversations otherwise"
        return Verdict("wrong template", (why,))
    what = "the same text" if texts else "as many tokens"
    return Verdict("right", (f"chat: the server's template makes {what} of every conversation",))


def _chat_alone(answered: Verdict) -> Verdict:
    """The chat endpoint is wrong where /v1/completions is right: what lies between is the prompt."""
    if answered.kind in ("missing BOS", "doubled BOS"):
        return answered
    why = "chat: /v1/completions is right and the answers to conversations are not, so the prompts must be others"
    return Verdict("wrong template", (why, *answered.because))
