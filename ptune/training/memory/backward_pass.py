"""A backward pass that fails leaves nothing behind."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def nothing_left_behind() -> Iterator[None]:
    """Around a backward pass on a CPU: if it raises, whatever of its graph was still to be run is freed.

    Autograd keeps that in a queue of the thread until the thread's next backward pass, with all the activations it refers to.
    Where there is no next one it is freed as the process ends. torch 2.15 calls Python to drop what gradient checkpointing has
    packed, and Python has gone by then: the process aborts, after its own last message.
    """
    try:
        yield
    except BaseException:
        torch.zeros((), requires_grad=True).backward()  # the queue drops what belongs to no pass any more
        raise
