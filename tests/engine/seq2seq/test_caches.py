"""SequenceCaches of different age side by side: each keeps its own cache, whoever comes and goes."""

from __future__ import annotations

import random

import numpy as np

from ptune.engine.seq2seq.caches import CELLS, SequenceCaches
from ptune.formats.seq2seq import Seq2SeqSignature
from ptune.formats.signature import CacheLayer

HEADS, DIM, LAYERS = 2, 3, 2


# Of a sequence its source, by layer and kind, and its tokens' parts.
Kept = tuple[list[np.ndarray], list[list[np.ndarray]]]


def _signature() -> Seq2SeqSignature:
    layer = CacheLayer(kv_heads=HEADS, key_dim=DIM, value_dim=DIM)
    return Seq2SeqSignature(
        vocab_size=9, context=99, cache=(layer,) * LAYERS, reader_sockets=(), writer_sockets=()
    )


def test_every_row_keeps_what_is_its_own() -> None:
    signature, chance, random_floats = _signature(), random.Random(1), np.random.default_rng(1)
    rows, kept = SequenceCaches(signature), list[Kept]()  # of each row what belongs to it: source, tokens

    def some(*shape: int) -> list[np.ndarray]:
        return [random_floats.standard_normal(shape).astype(np.float32) for _ in range(2 * LAYERS)]

    longest = []
    for _ in range(150):
        if len(kept) < 2 or chance.random() < 0.2:
            lengths = np.array([chance.randint(1, 6) for _ in range(chance.randint(1, 3))], np.int64)
            cross = some(len(lengths), HEADS, int(lengths.max()), DIM)
            rows.join(cross, lengths)
            kept += [([one[at, :, :length] for one in cross], []) for at, length in enumerate(lengths)]
        new = some(len(kept), HEADS, 1, DIM)
        rows.append(new)
        for at, (_, tokens) in enumerate(kept):
            tokens.append([one[at, :, 0] for one in new])
        longest.append(max(len(tokens) for _, tokens in kept))
        if chance.random() < 0.15:
            stay = [at for at in range(len(kept)) if chance.random() < 0.7]
            rows.keep(stay)
            kept = [kept[at] for at in stay]
    assert len(kept) > 1, "or nothing is compared"
    assert max(longest) > CELLS, "or no cache has grown"
    inputs = rows.inputs()
    assert inputs["past_lengths"].tolist() == [len(tokens) for _, tokens in kept]
    assert inputs["lengths"].tolist() == [source[0].shape[1] for source, _ in kept]
    for part, (past, source_cache) in enumerate(
        zip(signature.layers("past"), signature.layers("cross"), strict=True)
    ):
        for at, (source, tokens) in enumerate(kept):
            np.testing.assert_array_equal(inputs[source_cache][at, :, : source[part].shape[1]], source[part])
            for place, token in enumerate(tokens):
                np.testing.assert_array_equal(inputs[past][at, :, place], token[part])


def test_a_cache_grows_past_its_first_cells() -> None:
    rows = SequenceCaches(_signature())
    rows.join([np.ones((1, HEADS, 2, DIM), np.float32)] * (2 * LAYERS), np.array([2]))
    for step in range(CELLS + 5):
        rows.append([np.full((1, HEADS, 1, DIM), step, np.float32)] * (2 * LAYERS))
    cache = rows.inputs()["past_key.1"]
    assert cache.shape[2] == 2 * CELLS
    assert cache[0, 0, : CELLS + 5, 0].tolist() == list(range(CELLS + 5))


def test_a_cache_is_short_again_when_the_old_rows_are_gone() -> None:
    """Else every later step would go over the cells of the longest row that ever was."""
    rows, one = SequenceCaches(_signature()), [np.ones((1, HEADS, 2, DIM), np.float32)] * (2 * LAYERS)
    rows.join(one, np.array([2]))
    for step in range(5 * CELLS):
        if step == 4 * CELLS:
            rows.join(one, np.array([2]))
        rows.append([np.full((len(rows), HEADS, 1, DIM), step, np.float32)] * (2 * LAYERS))
    assert rows.inputs()["past_key.0"].shape[2] == 8 * CELLS
    rows.keep([1])
    cache = rows.inputs()["past_key.0"]
    assert cache.shape[2] == 2 * CELLS  # it is CELLS old and writes on
    assert cache[0, 0, :CELLS, 0].tolist() == list(range(4 * CELLS, 5 * CELLS))
    rows.keep([])
    assert rows.inputs()["past_key.0"].shape == (0, HEADS, CELLS, DIM)
