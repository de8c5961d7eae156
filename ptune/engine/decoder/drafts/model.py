"""A draft model: a smaller model of the same tokenizer proposes tokens, which the model itself then computes in one step
(Leviathan et al. 2023, https://arxiv.org/abs/2211.17192; Chen et al. 2023, https://arxiv.org/abs/2302.01318).

Its tokens are kept where the model itself chooses them: sampling is a function of request, seed and position, so a draft changes
no answer at any temperature. It runs without adapters. How long drafts are, and whether there are any, is decided by what they
were measured to bring (ptune.engine.decoder.drafts.length).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ptune.engine.decoder.cache.kept import common
from ptune.engine.decoder.cache.kv_cache import KvCache
from ptune.engine.decoder.forms import chosen
from ptune.engine.decoder.graphs import Graphs
from ptune.engine.decoder.inputs.attention_metadata import spare_positions
from ptune.engine.decoder.sequence import Chunk, TokenSequence
from ptune.engine.decoder.step import Step
from ptune.engine.options import EngineOptions
from ptune.errors import FormatError, UsageError
from ptune.formats.bundle import FLOAT_CACHE, Bundle
from ptune.formats.whole_write import read_json


class DraftModel:
    """Proposes tokens for sequences with slots. It has a slot of its own for each of the engine's, which holds what it has read
    of the sequence there; whatever differs, after a rejected draft or in another sequence, is read anew."""

    def __init__(self, graphs: Graphs, bundle: Bundle, cache: KvCache, chunk: int, vocab: int) -> None:
        """chunk: most tokens that are read before one proposal, for all sequences together. vocab: tokens of the target's base."""
        self._cache, self._chunk = cache, chunk
        # Models of one tokenizer may have different numbers of rows behind its tokens, and an adapter tokens of its own.
        self._known, self._vocab = bundle.decoder.vocab_size, vocab
        self._step = Step(graphs, bundle.decoder, cache)
        self._read = [TokenSequence([]) for _ in range(cache.slots)]
        for slot, read in enumerate(self._read):
            read.slot = slot
        self.steady = True  # in the last proposal it had nothing to read but what was new

    @classmethod
    def open(cls, folder: Path, target: Bundle, cache: KvCache, options: EngineOptions) -> DraftModel:
        """Opens the bundle of a draft model for a target's bundle and cache.

        Raises: FormatError; UsageError where its tokens are not the target's, or where a layer of either keeps states.
        """
        bundle = Bundle.open(folder)
        signature, profile = bundle.decoder, bundle.manifest.default_profile
        for kept in (one for one in (bundle, target) if one.decoder.states):
            raise UsageError(
                f"--draft-model {folder}: layers of {kept.folder} keep states, which cannot go back to where they were before a token that"
                " is rejected"
            )
        if not _same_tokens(bundle, target):
            raise UsageError(f"--draft-model {folder}: its tokenizer is another than that of {target.folder}")
        graph = bundle.manifest.graphs[profile]
        bundle.check_files(graph.files)
        kernels = chosen(bundle, profile, FLOAT_CACHE, options.kernels).kernels
        graphs = Graphs.open(
            bundle.graph_path(profile), signature, options.threads, graph.least_tokens, kernels
        )
        capacity = min(signature.context, cache.capacity)
        own = KvCache(
            signature, cache.slots, capacity, spare=spare_positions(graphs.heads, graphs.least_keys)
        )
        return cls(graphs, bundle, own, options.prefill_chunk, target.decoder.vocab_size)

    @property
    def resident_bytes(self) -> int:
        """Memory of keys and values that is taken now."""
        return self._cache.resident_bytes

    def copy(self, source: int, target: int, start: int, stop: int) -> None:
        """Follows a copy of the engine's slots, as far as it is worth it: of a whole beginning that was read."""
        found, read = self._read[source], self._read[target]
        stop = min(stop, found.cached)
        if start == 0 and stop > common(found.tokens, read.tokens, read.cached):
            read.cached = 0  # all that it holds, should the copy fail
            self._cache.copy(source, target, 0, stop)
            read.tokens, read.cached = found.tokens[:stop], stop

    def cut(self, slot: int, positions: int) -> None:
        """Follows a cut of the engine's slots."""
        self._cache.cut(slot, positions)
        read = self._read[slot]
        read.cached = min(read.cached, positions)

    def propose(self, room: Mapping[TokenSequence, int]) -> dict[TokenSequence, tuple[int, ...]]:
        """Proposes up to so many tokens to follow each sequence; none for one that it has not read to its end yet."""
        chunks = self._to_read(room)
        drafts: dict[TokenSequence, list[int]] = {sequence: [] for sequence in chunks}
        while chunks:
            logits = self._step([*chunks.values()])
            for (sequence, chunk), found in zip([*chunks.items()], logits, strict=True):
                read = chunk.sequence
                read.cached = chunk.start + chunk.count
                del chunks[sequence]
                if not chunk.newest:
                    continue
                token = int(found[-1][: self._vocab].argmax())
                drafts[sequence].append(token)
                if len(drafts[sequence]) < room[sequence]:
                    read.tokens.append(token)
                    chunks[sequence] = Chunk(read, read.cached, 1)
        return {sequence: tuple(draft) for sequence, draft in drafts.items()}

    def _to_read(self, room: Mapping[TokenSequence, int]) -> dict[TokenSequence, Chunk]:
        """What is read next of each sequence that fits: to its newest token, unless there is too much of it.

        A text with a token that this model does not know is not read: the graph has no row for it.
        """
        chunks, left = {}, self._chunk
        self.steady = True
        for sequence, most in room.items():
            assert sequence.slot is not None
            read, text = self._read[sequence.slot], sequence.text
            if not most or len(text) + most > self._cache.capacity:
                continue
            read.cached = common(read.tokens, text, min(read.cached, len(text) - 1))
            if max(text[read.cached :]) >= self._known:
                continue
            read.tokens = text
            count = min(read.uncached, left)
            self.steady &= read.uncached <= 2  # the newest, and the last of an accepted draft
            if count:
                chunks[sequence] = Chunk(read, read.cached, count)
                left -= count
        return chunks


def _same_tokens(draft: Bundle, target: Bundle) -> bool:
    """Whether the same ids stand for the same tokens in both."""
    files = [bundle.codec_path / "tokenizer.json" for bundle in (draft, target)]
    for file in files:
        if not file.is_file():
            raise FormatError(f"{file} is missing")
    if files[0].read_bytes() == files[1].read_bytes():
        return True
    one, other = map(read_json, files)
    return all(one.get(part) == other.get(part) for part in ("model", "added_tokens"))
