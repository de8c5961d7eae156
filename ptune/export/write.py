"""Writes a bundle folder: graph, weights, codec and manifest. `verify` measures it."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from transformers import PretrainedConfig

from ptune.codecs.chat import ChatCodec
from ptune.export.decoder.graph_variants import write_lighter
from ptune.export.decoder.nf4 import LEAST_TOKENS, write_nf4
from ptune.export.decoder.trace import Traced, trace
from ptune.export.fuse import fuse
from ptune.export.weights import Weights, attach, save, with_weights
from ptune.formats.bundle import FP32, NF4, BaseIdentity, Bundle, Graph, Manifest, hashes
from ptune.formats.signature import TURN_GROUP, EncoderSignature, EndKind, Signature
from ptune.kinds import DECODER, ENCODER


class Codec(Protocol):
    """A converter from a user's input to the graph's, saved beside the graph."""

    def save(self, folder: Path) -> None: ...


PACKAGES = ("ptune", "torch", "transformers", "peft", "onnx", "onnxscript", "onnxruntime", "numpy")


def write_bundle(
    folder: Path,
    config: PretrainedConfig,
    weights: Weights,
    codec: ChatCodec,
    identity: BaseIdentity,
    *,
    ends: Sequence[EndKind] = (),
    turn_group: int = TURN_GROUP,
    profile: str = FP32,
    trust_remote_code: bool = False,
    report: Callable[[str], None] = lambda _: None,
) -> Bundle:
    """Writes a bundle of the bare base into `folder`, which must be empty or absent.

    ends: what adapters may bring at the decoder's ends. turn_group: of turns among that. profile: of its graph; nf4 takes weights that came out of nf4.
    report: called with the name of each stage as it begins.
    Raises: BackboneError if the model cannot be exported.
    """
    report("tracing the graph")
    traced = trace(config, ends=ends, turn_group=turn_group, trust_remote_code=trust_remote_code)
    attach(traced, weights)
    if isinstance(traced.signature, Signature) and traced.signature.ends is not None:
        known = with_weights(traced.signature.ends, traced.signature.sockets, weights)
        traced = replace(traced, signature=traced.signature.model_copy(update={"ends": known}))
    fuse(traced.graph)
    return write_traced(folder, traced, codec, identity, profile=profile, report=report)


def write_traced(
    folder: Path,
    traced: Traced,
    codec: Codec,
    identity: BaseIdentity,
    *,
    profile: str = FP32,
    report: Callable[[str], None] = lambda _: None,
) -> Bundle:
    """Writes a bundle of a traced decoder or encoder base, whose weights are attached."""
    path = folder / "graphs" / profile / "model.onnx"
    report("writing the weights")
    if profile == NF4:
        write_nf4(traced.graph, path)
    else:
        save(traced, path)
    if isinstance(traced.signature, Signature | EncoderSignature):
        write_lighter(path, traced.signature)
    codec.save(folder / "codec")
    report("hashing the files")
    bundle = Bundle(folder, _manifest(folder, traced, identity, profile))
    bundle.write_manifest(bundle.manifest)
    return bundle


def _manifest(folder: Path, traced: Traced, identity: BaseIdentity, profile: str) -> Manifest:
    least = LEAST_TOKENS if profile == NF4 else 1
    return Manifest(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        versions=versions(),
        task=(DECODER if isinstance(traced.signature, Signature) else ENCODER).task,
        base=identity,
        signature=traced.signature,
        graphs={
            profile: Graph(profile=profile, files=hashes(folder, f"graphs/{profile}"), least_tokens=least)
        },
        default_profile=profile,
        codec=hashes(folder, "codec"),
        golden={},
    )


def versions() -> dict[str, str]:
    """Versions of the packages that made the bundle."""
    made_by = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            made_by[name] = importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue
    return made_by
