"""Memory of the process, given the memory of a step: the effect of the allocator."""

from __future__ import annotations

import array
import platform
import subprocess
import sys
from pathlib import Path

from ptune.planning import heap_replay
from ptune.planning.step import Followed, Part
from ptune.planning.storage import GIVEN_BACK

_STATIC = (Part.WEIGHTS, Part.QUANTISATION)  # loaded earlier and never freed
_SLACK = 1.12  # measured overhead of glibc, for machines where its allocator cannot be asked


def peak(followed: Followed) -> tuple[int, int]:
    """Peak of resident bytes, and the index of its event.

    Replays the step's blocks in the C library's own allocator, in a separate process.
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
    """The events of all but the loaded storages, as `heap_replay` reads them, and the timeline index of each."""
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
