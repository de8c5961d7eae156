"""From what a step holds to what the process holds: the allocator between them."""

from __future__ import annotations

import array
import platform
import subprocess
import sys
from pathlib import Path

from ptune.planning import heap_replay
from ptune.planning.step import Followed, Part
from ptune.planning.storage import GIVEN_BACK

_STATIC = (Part.WEIGHTS, Part.QUANTISATION)  # loaded before, and never freed
_SLACK = 1.12  # where the C library cannot be asked: what glibc was seen to add


def peak(followed: Followed) -> tuple[int, int]:
    """Most bytes resident, and the event after which they are.

    The C library's own allocator is asked, with the step's blocks in their order, in a process of its own.
    """
    standing = sum(followed.standing[part] for part in _STATIC)
    events, places = _dynamic(followed)
    if platform.libc_ver()[0] == "glibc":
        command = [sys.executable, "-S", str(Path(heap_replay.__file__))]
        done = subprocess.run(command, input=array.array("q", events).tobytes(), capture_output=True)
        if done.returncode == 0:
            resident, index = map(int, done.stdout.split())
            return standing + resident, places[index]
    live = followed.timeline.live()
    index = max(range(followed.first, len(live)), key=live.__getitem__)
    return standing + int((live[index] - standing) * _SLACK), index


def _dynamic(followed: Followed) -> tuple[list[int], list[int]]:
    """The events of what is not loaded, as `heap_replay` reads them, and the place of each in the timeline."""
    events: list[int] = []
    places: list[int] = []
    numbers: dict[int, int] = {}
    timeline = followed.timeline
    for place, event in enumerate(timeline.events):
        if event == GIVEN_BACK:
            events.append(GIVEN_BACK)
        elif event >= 0:
            if followed.parts[event] in _STATIC:
                continue
            numbers[event] = len(numbers)
            events.append(timeline.sizes[event])
        elif -1 - event in numbers:
            events.append(-1 - numbers[-1 - event])
        else:
            continue
        places.append(place)
    return events, places
