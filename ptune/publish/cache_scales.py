"""The scales of an int8 cache: the largest key and value of each channel on text that ships with ptune."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from ptune.codecs.chat import ChatCodec
from ptune.export.decoder.int8_cache import LARGEST, Scales
from ptune.formats.bundle import BASE, Bundle
from ptune.verify.decoder.gate import plugs
from ptune.verify.decoder.graph import PlainGraph

SAMPLES = ("devils_dictionary.train.jsonl", "django_es.train.jsonl")  # the gate measures on other text
PIECES, PIECE = 96, 128  # of the text; tokens of each
SMALLEST = 1e-6  # scale of a channel that is always 0


def measured_scales(bundle: Bundle, codec: ChatCodec, threads: int) -> Scales:
    """Reads text through the bundle's reference graph, bare and under each adapter.

    Each piece lies elsewhere in the model's context: rotary embedding turns a slow channel into its neighbour over thousands
    of tokens, and no short text shows how large both become.
    """
    signature = bundle.decoder
    graph = PlainGraph(bundle.graph_path(bundle.reference), signature, threads)
    pieces = _pieces(codec, min(PIECE, signature.context))
    largest: dict[str, NDArray[np.float32]] = {}
    for factors, of_ends in (plugs(bundle, name) for name in (BASE, *bundle.manifest.adapters)):
        room = signature.context - of_ends.before
        starts = np.linspace(0, max(0, room - max(map(len, pieces))), len(pieces)).astype(int)
        for ids, start in zip(pieces, starts.tolist(), strict=True):
            for name, cache in graph.caches(ids[:room], start, factors, of_ends).items():
                found = np.abs(cache).max(1)
                largest[name] = np.maximum(found, largest.get(name, found))
    return {name: np.maximum(found / LARGEST, SMALLEST).astype(np.float32) for name, found in largest.items()}


def _pieces(codec: ChatCodec, longest: int) -> list[Sequence[int]]:
    """Equal parts of each sample, cut off at `longest` tokens a line."""
    texts = [_lines(name) for name in SAMPLES]
    each = PIECES // len(texts)
    chosen = [line for lines in texts for line in lines[:: max(len(lines) // each, 1)][:each]]
    return [ids[:longest] for line in chosen if (ids := codec.encode_text(line))]


def _lines(name: str) -> list[str]:
    return (resources.files("ptune.data") / "samples" / name).read_text(encoding="utf-8").splitlines()
