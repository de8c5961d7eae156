"""Gives a bundle's profiles graphs with an int8 cache, as `ptune export --kv-cache-dtype int8` writes them, unproved."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ptune.codecs.chat import ChatCodec
from ptune.engine.adapters.safetensors import write_tensors
from ptune.export.decoder.int8_cache import write_int8_cache
from ptune.formats.bundle import INT8_CACHE_SCALES, Bundle
from ptune.publish.cache_scales import measured_scales
from ptune.publish.steps import enter_caches
from ptune.verify.decoder.graph import PlainGraph
from ptune.verify.decoder.plain_ends import PlainEnds


def give_int8_cache(bundle: Bundle, ids: Sequence[int] = ()) -> Bundle:
    """Writes the graphs into the bundle and enters them. ids: what keys and values are measured on, instead of text."""
    if ids:
        caches = PlainGraph(bundle.graph_path(), bundle.decoder, 1).caches(ids, 0, None, PlainEnds())
        scales = {name: np.abs(cache).max(1) / np.float32(127) for name, cache in caches.items()}
    else:
        scales = dict(measured_scales(bundle, ChatCodec.open(bundle.codec_path), 1))
    for profile in bundle.manifest.graphs:
        write_int8_cache(bundle.graph_path(profile), scales)
        write_tensors(bundle.graph_path(profile).with_name(INT8_CACHE_SCALES), scales)
        enter_caches(bundle, profile, ("int8",))
    return bundle
