"""The memory of its own (RssAnon) that a process gains, which mapped files are no part of."""

from __future__ import annotations

import json
import os
import subprocess
import sys

_MEASURED = """
import contextlib, json, re, sys, threading
from pathlib import Path

def own():
    return 1024 * int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

@contextlib.contextmanager
def measured():
    looks, done = [own()], threading.Event()

    def look():
        while not done.wait(0.002):
            looks.append(own())

    thread = threading.Thread(target=look)
    thread.start()
    yield
    done.set()
    thread.join()
    print(json.dumps(max(looks) - looks[0]))
"""


def gained(code: str, *arguments: object, **environment: str) -> int:
    """The most bytes that a process of its own gains within `with measured():`. arguments: its sys.argv[1:], as words.

    What is freed goes back to the system at once, so that what is held is counted and not what malloc keeps.
    """
    command = [sys.executable, "-c", _MEASURED + code, *map(str, arguments)]
    kept = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072", **environment}
    answer = subprocess.run(command, capture_output=True, text=True, env=kept)
    assert answer.returncode == 0, answer.stderr
    return int(json.loads(answer.stdout.splitlines()[-1]))
