"""A studio's folder with what can be shipped: two runs of one base, one of another base, and a bundle of the first."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import DEVNULL, Popen

from ptune import publish
from ptune.config.chat import Chat
from ptune.config.recipe import Recipe
from ptune.formats.bundle import BaseIdentity
from ptune.formats.run import RunRecord
from ptune.formats.whole_write import write_text
from support import chat_run
from support.bundles import peft_folder
from support.fake_chat_model import wait_until
from support.tiny_models import build

GGUF = b"GGUF, or nearly"


def shipped(folder: Path) -> Path:
    """Runs `first`, `second` and `foreign`, the bundle `first`, and a GGUF export of `first` that holds no model."""
    build(folder / "model")
    run = chat_run.trained(folder)
    publish.export_run(run, folder / "bundles" / "first", name="first", threads=1)
    for name in ("first", "second"):
        shutil.copytree(run.folder, folder / "runs" / name)
    shutil.rmtree(run.folder)
    other = build(folder / "other", hidden_size=48, intermediate_size=96)
    foreign = folder / "runs" / "foreign"
    peft_folder(other, foreign / "adapter")
    Recipe(task=Chat()).save(foreign / "recipe.yaml")
    base = BaseIdentity(source=str(other), hash="0" * 64)
    record = RunRecord(created="2024", base=base, status="finished")
    write_text(foreign / "run.json", record.model_dump_json())
    (folder / "gguf" / "first").mkdir(parents=True)
    for file, content in (("gguf.json", b"{}"), ("base.gguf", GGUF)):
        (folder / "gguf" / "first" / file).write_bytes(content)
    return folder


@contextmanager
def running(bundle: Path, place: Path, *options: str) -> Iterator[str]:
    """`ptune serve` of a copy of the bundle, which adapters may be added to; its address."""
    shutil.copytree(bundle, place / "bundle")
    ready = place / "ready"
    words = [
        "--port",
        "0",
        "--no-ui",
        "--threads",
        "1",
        "--adapters-api",
        "--ready-file",
        str(ready),
        *options,
    ]
    command = [sys.executable, "-m", "ptune", "serve", str(place / "bundle"), *words]
    process = Popen(command, stdout=DEVNULL, stderr=DEVNULL)
    try:
        wait_until(lambda: ready.exists() or process.poll() is not None)
        yield ready.read_text().strip()
    finally:
        process.terminate()
        process.wait()
