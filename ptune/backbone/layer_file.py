"""A file for weights that are not to stay in memory. It has no name, so it is gone when the process is, however that ends."""

from __future__ import annotations

import mmap
import os
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from bitsandbytes.nn import Int8Params
from torch import nn

from ptune.formats.whole_write import disk_errors

_CHUNK_BYTES = (
    1 << 30
)  # mapped at once: each mapping takes a file descriptor. What is not written takes no disk.


@dataclass(frozen=True)
class Place:
    """Where a module keeps a tensor: an object, and its attributes, which are one tensor."""

    holder: Any
    attributes: tuple[str, ...]

    @property
    def tensor(self) -> torch.Tensor:
        return cast(torch.Tensor, getattr(self.holder, self.attributes[0]))

    def put(self, tensor: torch.Tensor) -> None:
        for attribute in self.attributes:
            setattr(self.holder, attribute, tensor)


def places_of(parameter: nn.Parameter) -> Iterator[Place]:
    """A weight, and the scales of its blocks if it is nf4. Other scales and tables are small, and stay."""
    twice = isinstance(parameter, Int8Params) and parameter.CB is not None
    yield Place(parameter, ("data", "CB") if twice else ("data",))
    state = getattr(parameter, "quant_state", None)
    if state is not None:
        yield Place(state, ("absmax",))


class LayerFile:
    """Takes tensors, gives them back as views of the file, and reads them into memory."""

    def __init__(self, folder: Path) -> None:
        """Raises: PtuneError if no file can be made in `folder`."""
        self.folder = folder
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (open as long as the model lives)
        self._chunks: list[mmap.mmap] = []
        self._start = self._end = 0  # of the last chunk, in the file
        self._used = 0  # bytes of the last chunk
        self._offsets: dict[int, int] = {}  # in the file, by address of what `keep` gave

    def keep(self, tensor: torch.Tensor) -> torch.Tensor:
        """Writes a tensor on the CPU; returns it as a view of the file, whose pages the system takes back when it needs them.

        Raises: PtuneError if the disk is full.
        """
        if tensor.nbytes == 0 or tensor.data_ptr() in self._offsets:
            return tensor
        chunk = self._room_for(tensor.nbytes)
        start, self._used = self._used, _aligned(self._used + tensor.nbytes, mmap.PAGESIZE)
        with disk_errors(self.folder):
            self._write(tensor, self._start + start)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it cannot be written to: nobody does
            flat = torch.frombuffer(chunk, dtype=torch.uint8, count=tensor.nbytes, offset=start)
        view = flat.view(tensor.dtype).view(tensor.shape)
        self._offsets[view.data_ptr()] = self._start + start
        return view

    def offset_of(self, view: torch.Tensor) -> int:
        """Where in the file something lies that `keep` gave."""
        return self._offsets[view.data_ptr()]

    def read(self, offset: int, into: torch.Tensor) -> None:
        """Fills `into`, bytes on the CPU, from `offset` on. Other threads run meanwhile."""
        target = memoryview(into.numpy())
        while len(target):
            read = os.preadv(self._file.fileno(), [target], offset)
            if read == 0:
                raise EOFError(f"the file of layers in {self.folder} ends early")
            target, offset = target[read:], offset + read

    def _room_for(self, nbytes: int) -> mmap.mmap:
        if not self._chunks or self._used + nbytes > len(self._chunks[-1]):
            size = max(_CHUNK_BYTES, _aligned(nbytes, mmap.PAGESIZE))
            self._start, self._used, self._end = self._end, 0, self._end + size
            with disk_errors(self.folder):
                self._file.truncate(self._end)
                handle = self._file.fileno()
                self._chunks.append(mmap.mmap(handle, size, access=mmap.ACCESS_READ, offset=self._start))
        return self._chunks[-1]

    def _write(self, tensor: torch.Tensor, offset: int) -> None:
        source = memoryview(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy())
        while len(source):
            written = os.pwrite(self._file.fileno(), source, offset)
            source, offset = source[written:], offset + written


def _aligned(size: int, to: int) -> int:
    return -(-size // to) * to
