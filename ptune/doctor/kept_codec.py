"""A cache of chat models' codecs for the doctor.

Reading a codec needs torch and transformers, and for a GGUF file a walk through the whole vocabulary: several times as long
as the doctor's own work.
"""

from __future__ import annotations

import contextlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ptune.backbone.locate import Source, locate
from ptune.codecs.chat import ChatCodec
from ptune.config.recipe import Backbone
from ptune.errors import PtuneError
from ptune.formats.cache import code_hash, key_of, place_for, seal, sealed
from ptune.formats.whole_write import whole_folder

READERS = ("transformers", "tokenizers", "gguf")


def chat_codec(spec: Backbone) -> ChatCodec:
    """As `ptune.backbone.load.load_codec`, but caches codecs of models on this machine. Raises: BackboneError."""
    source = locate(spec.model)
    if source.on_hub:  # a model on the hub may change
        return _read(spec)
    with place_for(_key(spec, source), "codecs") as place:
        if place is not None and sealed(place) is not None:
            return ChatCodec.open(place)
        codec = _read(spec)
        if place is not None:
            with contextlib.suppress(PtuneError):  # a full disk: the codec is not cached
                _keep(codec, place)
        return codec


def _read(spec: Backbone) -> ChatCodec:
    from ptune.backbone.load import load_codec

    return load_codec(spec)


def _keep(codec: ChatCodec, place: Path) -> None:
    with whole_folder(place) as part:
        codec.save(part)
        seal(part, {})


def _key(spec: Backbone, source: Source) -> str:
    """A key over a codec's inputs: the model's files by size and time, the options, and the code that reads them."""
    folder = Path(source.path).resolve()
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    looks = [(str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    options = [source.gguf, spec.new_tokens, spec.revision, spec.trust_remote_code]
    return key_of([str(folder), looks, options, code_hash("backbone", "codecs"), [*map(_version, READERS)]])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
