"""Which families of decoders work, and how exactly: python -m benchmarks.families [FAMILY ...] [--refresh]   (half an hour on one core)

Tiny models with random weights of every family in tests/support/every_family.py go the whole way, as a user would send them:
`ptune.train` on a handful of conversations (the losses of the first and the last step are kept), `ptune.export` with its proof of every hop (two adapters mixed, prompts
in chunks, prefixes from the cache, the same bits in company), int8 and int4; then once more on the base in nf4. A family that
cannot go it says why, in the words that a user is told.

A random model hardly prefers its likeliest token, so int8 and int4 may miss the gate of top-1 that trained models hold: their figure is
shown with that share.

Writes results/families.json after each family, so that a command that was stopped goes on; the table of docs/models.md is made of it
by `python -m benchmarks.figures`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.sides import RESULTS, write

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # the tiny models are the tests'

PACKAGES = ("ptune", "torch", "transformers", "peft", "bitsandbytes", "onnxruntime")
STEPS, LR = 6, 2e-2
ROWS = 24  # conversations
PROFILES = ("fp32", "int8", "int4")
COLUMNS = {
    "graph": ("hops", "base", "torch → ONNX base"),
    "adapter": ("hops", "adapter", "torch + peft → ONNX + adapter"),
    "engine": ("hops", "adapter", "ONNX → engine"),
    "company": ("hops", "base", "fp32: alone → in company"),
    "int8": ("hops", "base", "fp32 → int8"),
    "int4": ("hops", "base", "fp32 → int4"),
    "trained in nf4": ("hops nf4", "adapter", "kernel → float32"),
    "served in nf4": ("hops nf4", "adapter", "ONNX → engine"),
}
"""A column: where its hop is, of the base or the adapter, and the hop's name."""
MISSED = re.compile(r"mean KL (\S+), top-1 (\S+)%")  # of a profile's gate, in the words of its refusal


def row(name: str, place: Path) -> dict[str, Any]:
    """One family, the whole way."""
    from ptune.errors import PtuneError

    base = build(name, place / "model")
    found: dict[str, Any] = {}
    try:
        found["train"] = trained(base, place / "run", "none")
        found["hops"], found["refused"] = exported(place / "run", place / "bundle", PROFILES)
    except PtuneError as error:
        return {**found, "why": in_words(error, base)}
    try:
        found["train nf4"] = trained(base, place / "run4", "nf4")
        found["hops nf4"], _ = exported(place / "run4", place / "bundle4", ("nf4",))
    except PtuneError as error:
        found["why nf4"] = in_words(error, base)
    return found


def build(name: str, folder: Path) -> Path:
    """A model folder with random weights, of which 4 bits hold those of linear layers, and the tests' tokenizer."""
    from support.every_family import model
    from support.tiny_models import in_four_bits, tokenizer

    model(name).save_pretrained(folder)
    in_four_bits(folder)
    tokenizer().save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\nRandom weights.\n", encoding="utf-8")
    return folder


def trained(base: Path, run: Path, quantize: str) -> dict[str, Any]:
    """Trains a LoRA where PEFT puts it by default. Returns the loss of the first and the last step."""
    from support.tiny_models import conversations

    import ptune

    losses: list[float] = []
    backbone = ptune.Backbone(model=str(base), quantize=quantize)  # type: ignore[arg-type]
    rows = [{"messages": messages} for messages in conversations(ROWS)]
    ptune.train(
        "chat_lora",
        run,
        data=rows,
        backbone=backbone,
        method=ptune.Lora(r=4, alpha=8),
        train={"max_steps": STEPS, "lr": LR, "batch_size": 4, "micro_batch_tokens": 512, "warmup": 0},
        callbacks=lambda info: losses.append(info.loss),
    )
    return {"loss": [losses[0], losses[-1]], "falls": losses[-1] < losses[0]}


def exported(
    run: Path, bundle: Path, profiles: tuple[str, ...]
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Exports a run. Returns the hops, and the profiles that missed their gates, with the reasons."""
    import ptune

    proof = ptune.export(run, bundle, profiles=profiles, threads=1, anyway=True).proof
    told = ("name", "max_abs_logprob", "mean_kl", "top1", "liveness", "limit", "passed", "note")
    hops = [
        {
            "of": of,
            **{
                key: value
                for key, value in hop.model_dump().items()
                if key in told and value not in (None, "")
            },
        }
        for of, hops in (("base", proof.base), *proof.adapters.items())
        for hop in hops
    ]
    return hops, dict(proof.refused)


def in_words(error: Exception, base: Path) -> str:
    """What a user is told, without this machine's paths."""
    return " ".join(str(error).replace(str(base), "MODEL").split())


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: a row a family that goes the whole way, then those that are refused, with what is said."""
    whole = {name: found for name, found in sorted(rows.items()) if not found.get("why")}
    lines = [
        f"| family | {' | '.join(COLUMNS)} |",
        f"|---|{'---|' * len(COLUMNS)}",
        *(f"| {name} | {' | '.join(_cells(found))} |" for name, found in whole.items()),
    ]
    if apart := [f"- {name}, nf4: {found['why nf4']}" for name, found in whole.items() if "why nf4" in found]:
        lines += ["", *apart]
    if refused := [
        f"| {name} | {found['why']} |" for name, found in sorted(rows.items()) if found.get("why")
    ]:
        lines += ["", "| not served | what is said |", "|---|---|", *refused]
    return "\n".join(lines)


def _cells(found: Mapping[str, Any]) -> list[str]:
    return [_cell(found, key, of, hop) for key, of, hop in COLUMNS.values()]


def _cell(found: Mapping[str, Any], key: str, of: str, hop: str) -> str:
    """The figure of a hop: for weights that are kept the largest difference of a log-probability, else the divergence."""
    for one in found.get(key, ()):
        if hop in one["name"] and (one["of"] == "base") == (of == "base"):
            return _number(one["mean_kl"] if "KL" in one["limit"] else one["max_abs_logprob"])
    for profile, why in found.get("refused", {}).items():
        if hop == f"fp32 → {profile}" and (missed := MISSED.search(why)):
            return f"{_number(float(missed[1]))} (top-1 {missed[2]} %)"
    return "–"


def _number(value: float) -> str:
    return f"{value:.0e}".replace("e-0", "e-") if value else "0"


def main() -> int:
    """Tries all that were not tried before; prints what does not work."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument(
        "families", nargs="*", help="those to try again; default: all that were not tried before"
    )
    options.add_argument("--refresh", action="store_true", help="try all again")
    chosen = options.parse_args()
    from support.every_family import FAMILIES

    path = RESULTS / "families.json"
    rows: dict[str, Any] = {}
    if path.is_file() and not chosen.refresh:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    rows = {name: found for name, found in rows.items() if name in FAMILIES}
    for name in chosen.families or [one for one in FAMILIES if one not in rows]:
        begun = time.monotonic()
        with tempfile.TemporaryDirectory() as place, contextlib.redirect_stdout(io.StringIO()):
            rows[name] = found = row(name, Path(place))
        said = found.get("why") or found.get("why nf4") or "goes the whole way"
        print(f"{name}, {time.monotonic() - begun:.0f} s: {said}", flush=True)
        write("families", {"command": "python -m benchmarks.families", "rows": rows}, PACKAGES)
    return 0


if __name__ == "__main__":
    sys.exit(main())
