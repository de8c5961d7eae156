"""Answers for reinforcement learning, from weights that have just changed: python -m benchmarks.rollouts [--work FOLDER]

SmolLM2-135M in float32 with LoRA r16 on all linear layers, unmerged: 16 prompts × 8 answers of 64 tokens each at temperature 1,
whatever they say of an end. ptune: `put` of the adapter, then all 128 requests; a prompt is computed once for its answers.
transformers: `generate` with peft, left padding, num_return_sequences 8, in the ways of SIDES; each of them has the adapter in
place already. A round asks each side once, in an order that turns round. The ratio is against the fastest of transformers' by its
median. Every side says what it gave, and the greedy continuation of two prompts, which must be the same in float32.

About 20 minutes and 12 GB on two cores. Writes results/rollouts.json.
    --rounds 1 --prompts 2 --answers 2 --tokens 4 --dry-run     tries whether everything works
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.goals import host
from benchmarks.put import bare
from benchmarks.random_adapters import write_adapter
from benchmarks.sides import Measured, alternate, interval, ratio, write

PACKAGES = ("ptune", "onnxruntime", "torch", "transformers", "peft")
Dtype = Literal["float32", "bfloat16"]
DATA = Path(__file__).parent / "data" / "chat.jsonl"
OURS = "ptune"
SIDES: dict[str, tuple[Dtype, dict[str, Any], bool]] = {
    "transformers fp32": ("float32", {}, False),
    "transformers fp32, static cache": ("float32", {"cache_implementation": "static"}, False),
    "transformers fp32, merged and unmerged": ("float32", {}, True),
    "transformers bf16": ("bfloat16", {}, False),
}
GREEDY_TOKENS = 8


@dataclass(frozen=True)
class Work:
    """prompts: tokens of each. answers: of each prompt. tokens: of each answer."""

    prompts: tuple[tuple[int, ...], ...]
    answers: int
    tokens: int


def main() -> int:
    """Prints a row for each side and writes rollouts.json."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--work", type=Path, default=None, help="folder that keeps the bundle")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--prompts", type=int, default=16)
    options.add_argument("--answers", type=int, default=8)
    options.add_argument("--tokens", type=int, default=64)
    options.add_argument("--rows", type=int, default=32, help="sequences in ptune's step")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--dry-run", action="store_true", help="writes no file")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        place = chosen.work or Path(scratch)
        bundle = bare(place)
        adapter = write_adapter(_bundle(bundle), place / "rollouts", 7)
        work = Work(prompts_of(bundle, chosen.prompts), chosen.answers, chosen.tokens)
        sides = {OURS: functools.partial(ours, bundle, adapter, work, chosen.rows, chosen.threads)} | {
            name: functools.partial(theirs, adapter, work, chosen.threads, *how) for name, how in SIDES.items()
        }  # fmt: skip
        found = alternate(sides, chosen.rounds, threads=chosen.threads)
    check(found, work)
    rows = table(found, work)
    best = min(SIDES, key=lambda name: statistics.median(one["seconds"] for one in found[name]))
    faster = ratio(*([one["seconds"] for one in found[name]] for name in (best, OURS)))
    print(f"{OURS} against {best}: {faster}")
    document = {
        "command": f"python -m benchmarks.rollouts --rounds {chosen.rounds} --rows {chosen.rows} --threads {chosen.threads}",
        "prompts": {"count": len(work.prompts), "tokens": [len(prompt) for prompt in work.prompts]},
        "answers_of_each": work.answers,
        "tokens_of_each": work.tokens,
        "best_peer": best,
        "rows": rows,
        "ptune_vs_best_peer": {"median": faster.median, "low": faster.low, "high": faster.high, "pairs": faster.pairs},
        "host": host(),
    }  # fmt: skip
    if not chosen.dry_run:
        print(write("rollouts", document, PACKAGES))
    return 0


def prompts_of(bundle: Path, count: int) -> tuple[tuple[int, ...], ...]:
    """The first messages of conversations, as the model's template writes them."""
    from ptune.codecs.chat import ChatCodec

    codec = ChatCodec.open(_bundle(bundle).codec_path)
    lines = DATA.read_text(encoding="utf-8").splitlines()[:count]
    return tuple(tuple(codec.encode_prompt(json.loads(line)["messages"][:1])) for line in lines)


def ours(bundle: Path, adapter: Path, work: Work, rows: int, threads: int) -> Iterator[Measured]:
    """The engine, to which the weights are handed anew each time."""
    from safetensors.numpy import load_file

    from ptune.engine.decoder.engine import Engine
    from ptune.engine.decoder.request import Request
    from ptune.engine.sampling import Sampling

    engine = Engine.open(bundle, profile="fp32", threads=threads, max_rows=rows)
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    tensors = load_file(adapter / "adapter_model.safetensors")

    def asked(prompt: Sequence[int], temperature: float, tokens: int) -> Request:
        return Request(tuple(prompt), "policy", Sampling(temperature=temperature), max_tokens=tokens)

    engine.put("policy", config, tensors)
    some = [asked(prompt, 0, GREEDY_TOKENS) for prompt in work.prompts[:2]]
    greedy = [[token.id for token in answer] for answer in engine.generate_all(some)]
    requests = [asked(prompt, 1, work.tokens) for prompt in work.prompts for _ in range(work.answers)]
    while True:
        began_s = time.perf_counter()
        engine.put("policy", config, tensors)
        answers = engine.generate_all(requests)
        seconds = time.perf_counter() - began_s
        yield told(seconds, [[token.id for token in answer] for answer in answers], greedy)


def theirs(
    adapter: Path, work: Work, threads: int, dtype: Dtype, options: dict[str, Any], merge: bool
) -> Iterator[Measured]:
    """transformers' `generate` with peft. merge: the adapter is merged before and taken out after, within the time."""
    import torch
    from peft import PeftModel

    from benchmarks.decode_tables import MODEL
    from ptune.backbone.load import load
    from ptune.config.recipe import Backbone

    torch.set_num_threads(threads)
    model = PeftModel.from_pretrained(
        load(Backbone(model=MODEL, dtype=dtype), device="cpu").model, str(adapter)
    )
    model.eval()

    def generate(prompts: Sequence[Sequence[int]], tokens: int, **how: Any) -> list[list[int]]:
        width = max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(prompt)) + [*prompt] for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        given = {
            "max_new_tokens": tokens,
            "min_new_tokens": tokens,
            "eos_token_id": None,
            "pad_token_id": 0,
            **how,
        }
        with torch.inference_mode():
            answer = model.generate(input_ids=ids, attention_mask=mask, **given)
        found: list[list[int]] = answer[:, width:].tolist()
        return found

    greedy = generate(work.prompts[:2], GREEDY_TOKENS, do_sample=False, **options)
    sampled = {
        "do_sample": True,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "num_return_sequences": work.answers,
    }
    while True:
        began_s = time.perf_counter()
        if merge:
            model.merge_adapter()
        answers = generate(work.prompts, work.tokens, **sampled, **options)
        if merge:
            model.unmerge_adapter()
        yield told(time.perf_counter() - began_s, answers, greedy)


def told(seconds: float, answers: list[list[int]], greedy: list[list[int]]) -> Measured:
    return {
        "seconds": seconds,
        "lengths": [len(answer) for answer in answers],
        "distinct": len({tuple(answer) for answer in answers}),
        "greedy": greedy,
    }


def check(found: dict[str, list[Measured]], work: Work) -> None:
    """Raises: SystemExit where a side did not give what was asked for, or is another model."""
    expected = [work.tokens] * (len(work.prompts) * work.answers)
    for name, rounds in found.items():
        for one in rounds:
            if one["lengths"] != expected:
                raise SystemExit(
                    f"{name} gave {len(one['lengths'])} answers of {sorted({*one['lengths']})} tokens"
                )
            if one["distinct"] < len(expected) // 2:
                raise SystemExit(f"{name} gave {one['distinct']} different answers: it does not sample")
        if "bf16" not in name and rounds[0]["greedy"] != found[OURS][0]["greedy"]:
            raise SystemExit(f"{name} continues otherwise: {rounds[0]['greedy']}, {found[OURS][0]['greedy']}")


def table(found: dict[str, list[Measured]], work: Work) -> dict[str, Any]:
    """A row for each side: median seconds with a 95 % bootstrap interval, and tokens a second."""
    rows: dict[str, Any] = {}
    count = len(work.prompts) * work.answers * work.tokens
    for name, rounds in found.items():
        seconds = [one["seconds"] for one in rounds]
        low, high = interval(seconds, statistics.median)
        median = statistics.median(seconds)
        spread = {"median": median, "low": low, "high": high, "pairs": len(seconds)}
        rows[name] = {"seconds": spread, "tokens_per_s": count / median}
        print(f"{name:42} {median:7.2f} s  {count / median:8.1f} tokens/s")
    return rows


def _bundle(folder: Path) -> Any:
    from ptune.formats.bundle import Bundle

    return Bundle.open(folder)


if __name__ == "__main__":
    sys.exit(main())
