"""Held-out prompts on which the hops are compared; stored in the bundle, so that it can be verified anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from ptune.codecs.chat import ChatCodec, Example
from ptune.errors import FormatError
from ptune.formats.whole_write import read_json, write_json
from ptune.verify.decoder.torch_side import Probe
from ptune.verify.limits import POSITIONS, PROBES

FILE = "golden/probes.json"
LONGEST = 512  # tokens
ROOM = 16  # tokens kept free for greedy continuations

WITHOUT_DATA = (
    "What is the capital of France?", "Write one line about the sea.", "Explain gravity to a child.",
    "List three colours.", "Translate 'good morning' into Spanish.", "Why is the sky blue?",
    "Give me a short recipe for soup.", "What does a compiler do?", "Tell me a joke.", "Define: honesty",
    "How many legs has a spider?", "Name a river in Africa.", "What is 12 times 12?", "Who wrote Hamlet?",
    "Describe a forest in autumn.", "What is photosynthesis?",
)  # fmt: skip
"""Prompts for a model that was exported without data of its own, or with too little."""


def of_examples(examples: Sequence[Example], codec: ChatCodec) -> list[Probe]:
    """Probes of the first examples with a target, windowed around it; topped up to PROBES with our own prompts."""
    longest = min(LONGEST, (codec.context or LONGEST) - ROOM)
    around_targets = (probe for example in examples if (probe := _of_example(example, longest)) is not None)
    probes = islice(around_targets, PROBES)  # lazily: the remaining examples are not read
    return [*probes, *_without_data(codec, longest)][:PROBES]


def _of_example(example: Example, longest: int) -> Probe | None:
    """A probe at the positions before an example's first targets, cut to `longest` tokens; None without a target."""
    first = next((i for i, target in enumerate(example.targets) if target and i > 0), None)
    if first is None:
        return None
    start = max(0, min(first - longest // 2, len(example.ids) - longest))
    ids, targets = example.ids[start : start + longest], example.targets[start : start + longest]
    wanted = tuple(i - 1 for i, target in enumerate(targets) if target and i > 0)
    return Probe(ids, wanted[:POSITIONS], wanted[0] + 1)


def _without_data(codec: ChatCodec, longest: int) -> list[Probe]:
    """Probes of our own prompts, at the last positions of each."""
    probes = []
    for text in WITHOUT_DATA:
        ids = codec.encode_text(text)
        if codec.template is not None:
            ids = codec.encode_prompt([{"role": "user", "content": text}])
        ids = ids[-longest:]
        probes.append(Probe(tuple(ids), tuple(range(len(ids)))[-POSITIONS:], len(ids)))
    return probes


def save(probes: Sequence[Probe], bundle: Path) -> None:
    """Writes the probes into a bundle."""
    rows = [{"ids": p.ids, "wanted": p.wanted, "prompt_tokens": p.prompt_tokens} for p in probes]
    write_json(bundle / FILE, {"format": 1, "probes": rows})


def load(bundle: Path) -> list[Probe]:
    """Reads a bundle's probes. Raises: FormatError."""
    path = bundle / FILE
    try:
        return [
            Probe(tuple(row["ids"]), tuple(row["wanted"]), int(row["prompt_tokens"]))
            for row in read_json(path)["probes"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{path} is damaged: {error!r}") from None
