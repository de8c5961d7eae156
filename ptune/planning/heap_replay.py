"""Replays allocations and frees in the C library's allocator to find how many pages a process would hold.

A separate program that imports only the standard library, so that its heap starts empty. It reads int64 values from
standard input (a size: allocate; -1 - i: free the i-th block; GIVEN_BACK: return free pages to the system; SPAN: a span
of events begins) and prints the peak of resident bytes in each span. Blocks are never written, so they cost no memory here; a map records which pages would have been touched.
"""

from __future__ import annotations

import array
import ctypes
import sys

PAGE = 4096
GIVEN_BACK = -(2**62)
SPAN = -(2**62) - 1
_ALIGNMENT = 64  # PyTorch's
_MAPPED = 2  # flag in the word before a block: the block has its own mapping
_LARGE = 32 * 2**20  # glibc always maps blocks of this size separately


class Pages:
    """The resident pages of the heap."""

    def __init__(self, libc: ctypes.CDLL) -> None:
        libc.sbrk.restype = ctypes.c_void_p
        libc.sbrk.argtypes = [ctypes.c_ssize_t]
        self._libc = libc
        self._start = libc.sbrk(0) // PAGE
        self._map = bytearray()
        self.resident = 0

    def touch(self, address: int, size: int) -> None:
        first, end = self._range(address, size)
        if end > len(self._map):
            self._map.extend(bytes(end - len(self._map)))
        self.resident += end - first - self._map.count(1, first, end)
        self._map[first:end] = b"\1" * (end - first)

    def cut(self) -> None:
        """Drops pages above the end of the heap, which the C library lowers on its own."""
        end = max(0, self._libc.sbrk(0) // PAGE - self._start)
        if end < len(self._map):
            self.resident -= self._map.count(1, end)
            del self._map[end:]

    def keep_only(self, blocks: list[tuple[int, int]]) -> None:
        """Drops the pages without a block."""
        kept = bytearray(len(self._map))
        for address, size in blocks:
            first, end = self._range(address, size)
            kept[first:end] = self._map[first:end]
        self._map = kept
        self.resident = kept.count(1)

    def _range(self, address: int, size: int) -> tuple[int, int]:
        return max(0, address // PAGE - self._start), max(0, (address + size - 1) // PAGE + 1 - self._start)


def replay(events: list[int]) -> list[int]:
    """Peak of resident bytes in each span."""
    libc = ctypes.CDLL(None)
    libc.posix_memalign.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    pages, place = Pages(libc), ctypes.c_void_p()
    reference, mapped_bytes = ctypes.byref(place), 0
    blocks: list[tuple[int, int, bool]] = []  # address (0: not asked for), size, mapped for itself
    live: set[int] = set()
    peaks = [0]
    for event in events:
        if event >= 0:
            address, mapped = 0, True
            if event < _LARGE:
                if libc.posix_memalign(reference, _ALIGNMENT, max(event, 1)):
                    raise SystemExit("out of address space")
                address = int(place.value or 0)
                mapped = bool(ctypes.c_size_t.from_address(address - 8).value & _MAPPED)
            if mapped:
                mapped_bytes += event
            else:
                pages.touch(address, max(event, 1))
            live.add(len(blocks))
            blocks.append((address, event, mapped))
            peaks[-1] = max(peaks[-1], pages.resident * PAGE + mapped_bytes)
        elif event == SPAN:
            peaks.append(pages.resident * PAGE + mapped_bytes)
        elif event == GIVEN_BACK:
            pages.keep_only([blocks[i][:2] for i in live if not blocks[i][2]])
        else:
            address, size, mapped = blocks[-1 - event]
            live.remove(-1 - event)
            if address:
                libc.free(address)
            if mapped:
                mapped_bytes -= size
            else:
                pages.cut()
    return peaks


if __name__ == "__main__":
    read = array.array("q")
    read.frombytes(sys.stdin.buffer.read())
    for resident in replay(list(read)):
        print(resident)
