"""`ptune studio` as a process of its own, which tests kill and start anew on the same folder."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ptune.studio.jobs import Jobs
from ptune.studio.workspace import Workspace
from support.fake_chat_model import wait_until


@dataclass
class StudioProcess:
    """The process, and where its page is."""

    folder: Path
    process: subprocess.Popen[bytes]
    url: str

    @classmethod
    def started(cls, folder: Path) -> StudioProcess:
        ready, said = folder / "studio.url", folder / "studio.log"
        ready.unlink(missing_ok=True)
        command = ["-m", "ptune", "studio", "--folder", str(folder), "--port", "0", "--ready-file", str(ready)]
        with said.open("ab") as log:
            process = subprocess.Popen([sys.executable, *command], stdout=log, stderr=log)
        wait_until(lambda: ready.exists() or process.poll() is not None)
        assert ready.exists(), said.read_text()
        return cls(folder, process, ready.read_text().strip())

    def kill(self) -> None:
        """SIGKILL, as a machine without memory does it."""
        self.process.kill()
        self.process.wait()

    def again(self) -> None:
        """Starts another one on the folder."""
        new = StudioProcess.started(self.folder)
        self.process, self.url = new.process, new.url


@contextlib.contextmanager
def studio_on(folder: Path) -> Iterator[StudioProcess]:
    """A studio for the block; at its end nothing that it has started runs on."""
    studio = StudioProcess.started(folder)
    try:
        yield studio
    finally:
        studio.kill()
        jobs = Jobs(Workspace(folder))
        for _ in range(2):  # what was asked twice ends at once
            for job in jobs.all():
                jobs.stop(job.id)
        wait_until(lambda: all(job.state not in ("waiting", "running") for job in jobs.all()))
        said = (folder / "studio.log").read_text()
        assert "Traceback" not in said, said
