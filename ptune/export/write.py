"""Writes a bundle folder: graph, weights, codec and manifest. What it is worth, `verify` measures."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from transformers import PretrainedConfig

from ptune.codecs.chat import ChatCodec
from ptune.export.fuse import fuse
from ptune.export.graph_variants import write_lighter
from ptune.export.trace import Traced, trace
from ptune.export.weights import Weights, attach, save
from ptune.formats.bundle import FP32, BaseIdentity, Bundle, Graph, Manifest, hashes
from ptune.formats.signature import Signature


class Codec(Protocol):
    """What turns a user's input into the graph's, saved beside it."""

    def save(self, folder: Path) -> None: ...


PACKAGES = ("ptune", "torch", "transformers", "peft", "onnx", "onnxscript", "onnxruntime", "numpy")


def write_bundle(
    folder: Path,
    config: PretrainedConfig,
    weights: Weights,
    codec: ChatCodec,
    identity: BaseIdentity,
    *,
    trust_remote_code: bool = False,
    progress: Callable[[str, float], None] = lambda *_: None,
) -> Bundle:
    """Writes a bundle of the bare base into `folder`, which must be empty or absent.

    `progress` is told what is being done and which share of it is done.
    Raises: BackboneError where the model cannot be exported.
    """
    progress("tracing the graph", 0.0)
    traced = trace(config, trust_remote_code=trust_remote_code)
    attach(traced, weights)
    fuse(traced.graph)
    return write_traced(folder, traced, codec, identity, progress=progress)


def write_traced(
    folder: Path,
    traced: Traced,
    codec: Codec,
    identity: BaseIdentity,
    *,
    progress: Callable[[str, float], None] = lambda *_: None,
) -> Bundle:
    """Writes a bundle of a traced base, whose weights are attached, of a decoder or an encoder."""
    path = folder / "graphs" / FP32 / "model.onnx"
    save(traced, path, lambda _, done, total: progress("writing the weights", (done + 1) / total))
    if isinstance(traced.signature, Signature):
        write_lighter(path, traced.signature)
    codec.save(folder / "codec")
    progress("hashing the files", 0.0)
    bundle = Bundle(folder, _manifest(folder, traced, identity))
    bundle.write_manifest(bundle.manifest)
    return bundle


def _manifest(folder: Path, traced: Traced, identity: BaseIdentity) -> Manifest:
    return Manifest(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        versions=versions(),
        task="chat" if isinstance(traced.signature, Signature) else "encoder",
        base=identity,
        signature=traced.signature,
        graphs={FP32: Graph(profile=FP32, files=hashes(folder, f"graphs/{FP32}"))},
        codec=hashes(folder, "codec"),
        golden={},
    )


def versions() -> dict[str, str]:
    """What made the bundle."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
