"""Memory of the process, given the memory of a step: the effect of the allocator."""

from __future__ import annotations

import array
import platform
import subprocess
import sys
from pathlib import Path

from ptune.planning import heap_replay
from ptune.planning.heap_replay import SPAN
from ptune.planning.step import Followed, Part
from ptune.planning.storage import GIVEN_BACK

_STATIC = (Part.WEIGHTS, Part.QUANTISATION)  # loaded earlier and never freed
_SLACK = 1.12  # measured overhead of glibc, for machines where its allocator cannot be asked


def peaks(followed: Followed) -> list[int]:
    """Peak of resident bytes in each span of a step.

    Replays the step's blocks in the C library's own allocator, in a separate process.
    """
    standing = sum(followed.standing[part] for part in _STATIC)
    if platform.libc_ver()[0] == "glibc":
        command = [sys.executable, "-S", str(Path(heap_replay.__file__))]
        events = array.array("q", _dynamic(followed)).tobytes()
        done = subprocess.run(command, input=events, capture_output=True)
        if done.returncode == 0:
            _setup, *found = map(int, done.stdout.split())
            return [standing + resident for resident in found]
    live = followed.timeline.live()
    return [standing + int((live[index] - standing) * _SLACK) for index in followed.fullest()]


def _dynamic(followed: Followed) -> list[int]:
    """The events of all but the loaded storages, as `heap_replay` reads them."""
    events: list[int] = []
    numbers: dict[int, int] = {}
    timeline = followed.timeline
    starts = [span.start for span in followed.spans]
    for place, event in enumerate(timeline.events):
        events += [SPAN] * starts.count(place)
        if event == GIVEN_BACK:
            events.append(GIVEN_BACK)
        elif event >= 0:
            if followed.parts[event] in _STATIC:
                continue
            numbers[event] = len(numbers)
            events.append(timeline.sizes[event])
        elif -1 - event in numbers:
            events.append(-1 - numbers[-1 - event])
    return events + [SPAN] * starts.count(len(timeline.events))
