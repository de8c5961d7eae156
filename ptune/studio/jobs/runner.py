"""Runs one job and writes down how it ended: `python -m ptune.studio.jobs.runner WORKSPACE ID`, started by `Jobs`.

A process of its own, in a session of its own, so that the job outlives the studio; and tiny, since one waits beside each job.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

from ptune.child import module_command
from ptune.errors import PtuneError
from ptune.formats.whole_write import write_json
from ptune.studio.jobs.processes import began, lower_priority
from ptune.studio.jobs.queue import Jobs
from ptune.studio.workspace import Workspace

NOT_STARTED = 127  # as a shell tells it


def main() -> int:
    workspace, job_id = Workspace(Path(sys.argv[1])), sys.argv[2]
    folder = workspace.jobs / job_id
    if not _signs(folder):
        return 0  # another runner has the job
    lower_priority(os.getpid())
    code = _run(folder, workspace.folder, Jobs(workspace).get(job_id).command)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    write_json(folder / "ended.json", {"returncode": code, "ended": time.time(), "peak_bytes": peak})
    try:
        Jobs(workspace).advance()
    except PtuneError:
        return 1  # whoever looks at the queue next advances it
    return 0


def _signs(folder: Path) -> bool:
    """Whether this process is the first to write runner.json."""
    part = folder / f".runner.{os.getpid()}"
    write_json(part, {"pid": os.getpid(), "began": began(os.getpid()), "started": time.time()})
    try:
        os.link(part, folder / "runner.json")  # fails where the file is there; whole where it is not
    except FileExistsError:
        return False
    finally:
        part.unlink()
    return True


def _run(folder: Path, where: Path, command: tuple[str, ...]) -> int:
    """The command's return code; negative: the signal that ended it."""
    # What was started in a shell's background ignores SIGINT, and so would all that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    words = module_command("ptune", *command[1:]) if command[0] == "ptune" else list(command)
    with (folder / "log.txt").open("ab") as log:
        if (folder / "stop.json").exists():
            return -signal.SIGINT
        try:
            child = subprocess.Popen(
                words, cwd=where, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        except OSError as error:
            log.write(f"error: {command[0]} cannot be started: {error.strerror}\n".encode())
            return NOT_STARTED
        write_json(folder / "child.json", {"pid": child.pid, "began": began(child.pid)})
        if (folder / "stop.json").exists():  # asked for before anybody could know the child
            child.send_signal(signal.SIGINT)
        return child.wait()


if __name__ == "__main__":
    raise SystemExit(main())
