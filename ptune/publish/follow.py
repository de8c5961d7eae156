"""Proves the best checkpoints of a running training, one by one, for a server of its bundle.

    python -m ptune.publish.follow RUN BUNDLE NAME [--threads N]

Each new best checkpoint is added to a copy of the bundle (hard links) as an adapter and proved there, as `ptune add` does.
A line on standard output names its folder, `{"step": 8, "name": "NAME-step-8", "folder": "…"}`; a line on standard input
acknowledges it, and the copy is removed. A checkpoint that cannot be served is reported as `{"step": 8, "name":
"NAME-step-8", "refused": "why"}` and acknowledged likewise. The process ends with the run or with its standard input; if it
cannot continue, it first writes `{"failed": "why"}`.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from peft import LoraConfig
from safetensors.torch import load_file, save_file

from ptune import publish
from ptune.codecs.chat import ChatCodec
from ptune.config.chat import Chat
from ptune.config.recipe import Recipe
from ptune.engine.adapters.folder import of_bundle
from ptune.engine.adapters.source import OWN
from ptune.errors import FormatError, PtuneError, UsageError
from ptune.formats.bundle import Bundle
from ptune.formats.run import Run
from ptune.formats.whole_write import read_json, sha256_of, write_json, write_text
from ptune.methods.lora import Lora
from ptune.tasks.chat.saving import adapter_facts, own_template

WEIGHTS = "adapter_model.safetensors"
POLL_S = 1.0
ENDED = ("finished", "stopped early")
_FACTOR = re.compile(r"base_model\.model\.(.+)\.(lora_[AB])\.default\.weight")


def best_step(run: Run) -> int | None:
    """The step of the best checkpoint so far, or of the newest without validation; None if there is no checkpoint yet."""
    try:
        newest = read_json(run.checkpoints_path / "latest.json")["step"]
        state = read_json(run.checkpoints_path / f"step-{newest}" / "state.json")
    except FormatError:
        return None  # not written yet, or being replaced
    best: int | None = state.get("best_step")
    return int(newest) if best is None else best


def check_followable(run: Run) -> None:
    """Raises: UsageError for a run whose checkpoints are not LoRA adapters."""
    recipe = Recipe.load(run.recipe_path)
    method = recipe.method if isinstance(recipe.task, Chat) and isinstance(recipe.method, Lora) else None
    if method is None or recipe.backbone.new_tokens or "embedding" in method.ends or not method.only_factors:
        raise UsageError(
            f"{run.folder} cannot be followed: only runs of chat by Lora, without new tokens, patterns, dora, lora_bias,"
            " freeze_a, target_parameters and a pissa or olora init, and with the base's embedding,"
            " have checkpoints that are adapters; export it when it has ended"
        )


def unpack(run: Run, step: int, folder: Path) -> None:
    """Writes a checkpoint as an adapter in PEFT's format, with the files that serving needs: the weights that were validated.

    Raises: FormatError if the checkpoint is damaged or gone.
    """
    place, recipe = run.checkpoints_path / f"step-{step}", Recipe.load(run.recipe_path)
    weights = place / f"{'weights' if recipe.train.ema is None else 'average'}.safetensors"
    expected = read_json(place / "state.json").get("files", {}).get(weights.name)
    if not weights.is_file() or sha256_of(weights) != expected:
        raise FormatError(f"{weights} is damaged")
    method, factors = recipe.method, {}
    assert isinstance(method, Lora)
    targets = set()
    for name, tensor in load_file(weights).items():
        factor = _FACTOR.fullmatch(name)
        if factor is None:
            raise FormatError(f"{weights} holds {name!r}, which is no factor of a LoRA adapter")
        targets.add(factor[1])
        factors[f"base_model.model.{factor[1]}.{factor[2]}.weight"] = tensor
    save_file(factors, folder / WEIGHTS, metadata={"format": "pt"})
    LoraConfig(
        r=method.r,
        lora_alpha=method.alpha,
        lora_dropout=method.dropout,
        use_rslora=method.rslora,
        target_modules=sorted(targets),
        task_type="CAUSAL_LM",
        base_model_name_or_path=recipe.backbone.model,
        inference_mode=True,
    ).save_pretrained(str(folder))
    codec = ChatCodec.open(run.codec_path)
    if (template := own_template(codec, recipe.chat)) is not None:
        write_text(folder / "chat_template.jinja", template)
    write_json(folder / OWN, adapter_facts(codec, run.record().base, (), recipe.chat))


@contextmanager
def proved(run: Run, step: int, bundle: Path, name: str, threads: int) -> Iterator[Path]:
    """Proves a checkpoint in a copy of the bundle and yields its adapter folder; then removes the copy.

    Raises: PtuneError if it does not fit or drifts.
    """
    holder = Path(tempfile.mkdtemp(prefix=f".{bundle.name}.", suffix=".following", dir=bundle.parent))
    try:
        adapter, copy = holder / "adapter", holder / "bundle"
        adapter.mkdir()
        unpack(run, step, adapter)
        if (there := _already(Bundle.open(bundle), name, adapter)) is not None:
            yield there
            return
        of_bundle(Bundle.open(bundle), copy)
        publish.add(copy, adapter, name, threads=threads)
        yield Bundle.open(copy).adapter_path(name)
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def _already(bundle: Bundle, name: str, adapter: Path) -> Path | None:
    """The adapter's folder if the bundle already has it, added before a restart of the server; else None.

    Raises: UsageError if another adapter has its name.
    """
    if name not in bundle.manifest.adapters:
        return None
    expected = bundle.adapter(name).files.get(WEIGHTS)
    if sha256_of(adapter / WEIGHTS) != expected:
        raise UsageError(f"{bundle.folder} has another adapter {name!r}: choose another --follow-name")
    return bundle.adapter_path(name)


def follow(run: Run, bundle: Path, name: str, threads: int, reports: IO[str], answers: IO[str]) -> None:
    """Writes a line to `reports` for each new best checkpoint, and waits for a line in `answers` after each.

    Returns when the run has ended and its best checkpoint was reported, or when `answers` ends.
    Raises: UsageError if the run cannot be followed.
    """
    check_followable(run)
    seen: set[int] = set()
    while True:
        ended = run.record().status in ENDED  # read first, so that the last checkpoint is not missed
        step = best_step(run)
        if step is not None and step not in seen:
            version = f"{name}-step-{step}"
            line: dict[str, Any] = {"step": step, "name": version}
            try:
                with proved(run, step, bundle, version, threads) as folder:
                    print(json.dumps({**line, "folder": str(folder)}), file=reports, flush=True)
                    if not answers.readline():
                        return
            except PtuneError as error:
                if best_step(run) != step:
                    continue  # replaced by a better one meanwhile
                print(json.dumps({**line, "refused": str(error)}), file=reports, flush=True)
                if not answers.readline():  # an unread line would acknowledge the next folder too early
                    return
            seen.add(step)
        elif ended:
            return
        else:
            time.sleep(POLL_S)


def main() -> int:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("run", type=Path)
    options.add_argument("bundle", type=Path)
    options.add_argument("name")
    options.add_argument("--threads", type=int, default=1)
    chosen = options.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that copies beside the bundle are removed
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's, which then ends this
    try:
        run = Run.open(chosen.run)
        follow(run, chosen.bundle, chosen.name, chosen.threads, sys.stdout, sys.stdin)
    except PtuneError as error:
        print(json.dumps({"failed": str(error)}), flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
