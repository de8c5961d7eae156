"""Divides the prompts of a step among the processes, and brings their answers together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from accelerate import Accelerator
from accelerate.utils import gather_object

T = TypeVar("T")


def own_share(accelerator: Accelerator, prompts: Sequence[T]) -> Sequence[T]:
    """This process's prompts: every n-th, of n processes."""
    return prompts[accelerator.process_index :: accelerator.num_processes]


def of_all(accelerator: Accelerator, own: Sequence[T]) -> list[T]:
    """What all processes made of their shares, in the order of the prompts."""
    process, processes = accelerator.process_index, accelerator.num_processes
    if processes == 1:
        return list(own)
    numbered = [(process + at * processes, one) for at, one in enumerate(own)]
    return [one for _, one in sorted(gather_object(numbered), key=lambda pair: pair[0])]


def known_to_all(accelerator: Accelerator, own: Mapping[int, T]) -> dict[int, T]:
    """What all processes found, by number; no number is of two of them."""
    if accelerator.num_processes == 1:
        return dict(own)
    return dict(gather_object(list(own.items())))
