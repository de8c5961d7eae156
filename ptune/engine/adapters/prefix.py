"""Adapters that stand before every text: prefix tuning, prompt tuning and p-tuning, as peft saves them.

Their virtual tokens are the same in every sequence, and nothing comes before them. So their keys and values are computed once, when
the adapter is added, and lie beside peft's own files. A sequence begins with a copy of them, and its own tokens follow at the next
positions, as in peft.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ptune.engine.adapters.fold.layer import Base
from ptune.engine.adapters.misfits import Misfits
from ptune.engine.adapters.safetensors import read_tensors, write_tensors
from ptune.engine.adapters.source import Source
from ptune.errors import AdapterError, FormatError
from ptune.formats.signature import Signature

Factor = npt.NDArray[np.float32]

FILE = "prefix.safetensors"  # beside peft's files: cache input -> [kv_heads, tokens, dim] in float32
EMBEDDINGS = "prompt_embeddings"  # the one tensor of peft's file
IN_THE_CACHE = "PREFIX_TUNING"  # its tensor holds keys and values themselves
TYPES = (IN_THE_CACHE, "PROMPT_TUNING", "P_TUNING")


@dataclass(frozen=True, eq=False)
class Prefix:
    """Keys and values of an adapter's virtual tokens."""

    tokens: int
    caches: Mapping[str, Factor]  # cache input -> [kv_heads, tokens, dim]

    @property
    def bytes(self) -> int:
        return sum(cache.nbytes for cache in self.caches.values())


def stands_before(source: Source) -> bool:
    """Whether an adapter is of one of these types."""
    return source.config.get("peft_type") in TYPES


@contextmanager
def with_prefix(adapter: Path, signature: Signature, base: Base | None) -> Iterator[Path]:
    """Yields a folder with the files of an adapter that stands before every text, and the keys and values of its virtual tokens.

    base: None: the base's weights are not at hand.
    Raises: AdapterError that lists everything that does not fit.
    """
    computed = compute_prefix(Source.folder(adapter), signature, base)
    with tempfile.TemporaryDirectory(prefix="ptune-prefix-") as place:
        stage = Path(place) / adapter.name
        shutil.copytree(adapter, stage, ignore=shutil.ignore_patterns(FILE, ".*"))
        write_tensors(stage / FILE, computed.caches)
        yield stage


def read_prefix(folder: Path, signature: Signature) -> Prefix:
    """The keys and values that `with_prefix` wrote. Raises: AdapterError where they are missing or do not fit the base."""
    try:
        caches = read_tensors(folder / FILE)
    except FormatError as error:
        raise AdapterError(str(error)) from None
    first = next(iter(caches.values()), None)
    tokens = first.shape[1] if first is not None and first.ndim == 3 else 0
    if {name: cache.shape for name, cache in caches.items()} != _shapes(signature, tokens) or not tokens:
        raise AdapterError(
            f"{folder / FILE} does not hold keys and values of this base: add the adapter anew"
        )
    return Prefix(tokens, caches)


def compute_prefix(source: Source, signature: Signature, base: Base | None = None) -> Prefix:
    """Keys and values of an adapter's virtual tokens. Raises: AdapterError that lists everything that does not fit."""
    if signature.states:
        raise AdapterError(
            f"{source.place} holds an adapter of {source.config['peft_type']}, which puts keys and values before a text; layers of this base"
            " keep states instead, so it cannot be served with it"
        )
    kind = str(source.config["peft_type"])
    embeddings = _embeddings(source, signature)
    if kind == IN_THE_CACHE:
        layers: Sequence[tuple[Factor, Factor]] = _of_prefix_tuning(source, embeddings, signature)
    elif base is None or base.prompt_cache is None:
        raise AdapterError(
            f"{source.place} holds an adapter of {kind}, whose keys and values take the base's weights: add it with `ptune add`,"
            " which reads them"
        )
    else:
        layers = base.prompt_cache(embeddings)
    flat = [side for layer in layers for side in layer]
    caches = dict(zip(signature.past_names(), flat, strict=False))
    shapes = _shapes(signature, len(embeddings))
    if len(flat) != len(shapes) or {name: cache.shape for name, cache in caches.items()} != shapes:
        raise AdapterError(
            f"{source.place}: its virtual tokens have other keys and values than this base's layers"
        )
    return Prefix(len(embeddings), caches)


def _embeddings(source: Source, signature: Signature) -> Factor:
    """The adapter's tensor [tokens, width]. Raises: AdapterError that lists what is wrong with them."""
    tensors = source.factors()
    misfits = Misfits([])
    for name in sorted(tensors.keys() - {EMBEDDINGS}):
        misfits.add("it holds tensors beside its virtual tokens", name)
    found, count = tensors.get(EMBEDDINGS), source.config.get("num_virtual_tokens")
    if found is None:
        misfits.add("it holds no virtual tokens", EMBEDDINGS)
    elif found.ndim != 2 or not found.size or len(found) != count:
        misfits.add(
            f"its virtual tokens are {list(found.shape)}, adapter_config.json has {count}", EMBEDDINGS
        )
    elif not np.isfinite(found).all():
        misfits.add("its virtual tokens have values that are not finite", EMBEDDINGS)
    elif len(found) >= signature.context:
        misfits.add(
            f"its {len(found)} virtual tokens leave no room in a context of {signature.context}", EMBEDDINGS
        )
    misfits.raise_for(source.place)
    assert found is not None
    return found


def _of_prefix_tuning(
    source: Source, embeddings: Factor, signature: Signature
) -> list[tuple[Factor, Factor]]:
    """Keys and values of each layer, which peft's file has side by side: [tokens, layers * 2 * kv_heads * dim]."""
    layer, tokens = signature.cache[0], len(embeddings)
    alike = all(one == layer for one in signature.cache) and layer.key_dim == layer.value_dim
    width = len(signature.cache) * 2 * layer.kv_heads * layer.key_dim
    if not alike or embeddings.shape[1] != width:
        raise AdapterError(
            f"{source.place}: its prefix is {list(embeddings.shape)}, but keys and values of this base's layers are {width} a token"
        )
    split = embeddings.reshape(tokens, len(signature.cache), 2, layer.kv_heads, layer.key_dim)
    return [(_by_head(split[:, at, 0]), _by_head(split[:, at, 1])) for at in range(len(signature.cache))]


def _by_head(side: Factor) -> Factor:
    """[tokens, heads, dim] -> [heads, tokens, dim]"""
    return np.ascontiguousarray(side.transpose(1, 0, 2))


def _shapes(signature: Signature, tokens: int) -> dict[str, tuple[int, int, int]]:
    sides = [(layer.kv_heads, dim) for layer in signature.cache for dim in (layer.key_dim, layer.value_dim)]
    return {
        name: (heads, tokens, dim) for name, (heads, dim) in zip(signature.past_names(), sides, strict=True)
    }
