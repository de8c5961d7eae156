"""Idle conversations on disk: what slots would lose is written to a folder, and read back when a text goes on as it did.

Only what a sequence has computed is kept, in blocks (`kv_blocks`). A block is copied out of its slot before that is used again,
and checked as a whole before a number of it is copied into one. Whatever is not found, or is not right, is computed as ever: the
same bits.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
from pathlib import Path

from ptune.codecs.vision import FIRST_ROW
from ptune.engine.adapters.digest import digest_of
from ptune.engine.decoder.cache.block_folder import BlockFolder
from ptune.engine.decoder.cache.kept import Kept
from ptune.engine.decoder.cache.kv_blocks import BLOCK_TOKENS, Block, Owner, blocks_of
from ptune.engine.decoder.cache.kv_cache import KvCache
from ptune.engine.decoder.forms import Form
from ptune.engine.decoder.sequence import TokenSequence
from ptune.engine.onnx_graph import available_cores
from ptune.engine.options import EngineOptions
from ptune.errors import UsageError
from ptune.formats.bundle import Bundle

WORTH_READING = 64  # tokens beyond those that memory has


class Idle:
    """Used by the engine's thread alone, but for the folder's counts."""

    def __init__(self, folder: BlockFolder, cache: KvCache, identity: bytes) -> None:
        """identity: a hash of all that the bits of keys and values depend on, beside tokens and adapter."""
        self.folder = folder
        self._cache, self._identity = cache, identity
        self._block_bytes = cache.packed_bytes(BLOCK_TOKENS)

    @classmethod
    def of(cls, bundle: Bundle, options: EngineOptions, cache: KvCache, form: Form) -> Idle | None:
        """The one of an engine; None where it keeps nothing on disk.

        Raises: UsageError where the folder cannot be used, or layers of the model keep states.
        """
        if options.kv_disk is None:
            return None
        if bundle.decoder.states:
            raise UsageError(
                f"--kv-disk: layers of {bundle.folder} keep states, which are not written to disk: leave it out"
            )
        folder = BlockFolder(options.kv_disk, options.kv_disk_bytes)
        return cls(folder, cache, identity_of(bundle, options, form))

    def owner(self, sequence: TokenSequence) -> Owner:
        """Under what a sequence is computed."""
        return Owner(sequence.tenant, digest_of(sequence.adapter), sequence.acts_from)

    def leave(
        self, slot: int, kept: Kept, first: int, *, stop: int | None = None, slid: int = 0, wait: bool = False
    ) -> None:
        """Keeps the blocks of a slot that hold tokens [first, stop), which the slot is about to lose. stop: default: all tokens.

        slid: tokens of which layers with a window have lost theirs. wait: for the disk, rather than drop what it cannot take at once.
        """
        assert kept.owner is not None
        for block in blocks_of(kept.tokens, kept.owner, self._identity):
            if stop is not None and block.start >= stop:
                return
            if block.stop <= first and block.start >= slid:
                continue
            if max(kept.tokens[block.start : block.stop]) >= FIRST_ROW:
                return  # numbers of images mean nothing to the next server
            if self.folder.has(block):
                self.folder.used(block)
            elif block.start < slid:
                return  # it was dropped as its windows went on, and those behind it are not found without it
            elif not self.folder.put(block, self._cache.packed(slot, block.start, block.stop), wait=wait):
                return

    def beyond(self, sequence: TokenSequence, shared: int, findable: int) -> list[Block]:
        """The blocks with which a sequence can be continued behind its first `shared` tokens; none where it is not worth it.

        findable: how many of its tokens may be found.
        """
        if findable - shared < WORTH_READING:
            return []
        found: list[Block] = []
        for block in blocks_of(sequence.tokens, self.owner(sequence), self._identity):
            if block.stop > shared:
                if block.start >= findable or not self.folder.has(block):
                    break
                found.append(block)
        return found if found and min(found[-1].stop, findable) - shared >= WORTH_READING else []

    def read(self, slot: int, block: Block) -> bool:
        """Copies a block into a slot; False, and nothing is changed, where it is not there or damaged."""
        content = self.folder.get(block, self._block_bytes)
        if content is not None:
            self._cache.unpack(slot, block.start, block.stop, content)
        return content is not None


def identity_of(bundle: Bundle, options: EngineOptions, form: Form) -> bytes:
    """A hash of what the bits of keys and values depend on: weights, graph, operators, and the machine that computes."""
    manifest = bundle.manifest
    parts = {
        "base": manifest.base.hash,
        "graph": manifest.graphs[form.profile].files,
        "cache": options.kv_cache_dtype,
        "operators": "" if form.kernels is None else [form.name, form.choice, form.kernels.name],
        "threads": options.threads or available_cores(),
        "versions": [_version(), *processor()],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).digest()


def processor(root: Path = Path("/")) -> list[str]:
    """The machine's processor, by which onnxruntime chooses its kernels, in words. root: where proc/ lies."""
    try:
        said = (root / "proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # not Linux
        said = ""
    found = re.findall(r"^(?:model name|flags|Features|CPU part)\s*:\s*(.+)$", said, re.MULTILINE)
    return [platform.machine(), *sorted({*found})]


def _version() -> str:
    import onnxruntime

    from ptune.version import __version__

    return f"ptune {__version__}, onnxruntime {onnxruntime.__version__}"
