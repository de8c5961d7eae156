"""Training runs in processes of their own, for the price of one import: a process that has imported everything forks.

It reads a request a line (JSON, see `Request`) and answers with a line. Run it with OMP_NUM_THREADS=1: a process that has
started threads cannot be forked.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch.distributed.fsdp  # noqa: F401
import transformers.models.llama.modeling_llama  # noqa: F401  what a run would import when it needs it

from ptune import fine_tune
from ptune.config.recipe import Recipe
from ptune.errors import PtuneError
from ptune.tasks.chat import work
from ptune.training import loop
from ptune.training.job import Job
from ptune.training.preparation import applied

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
}


@dataclass(frozen=True)
class Request:
    """One run. The first process may kill itself."""

    recipe: str
    out: str
    resume: bool = False
    processes: int = 1
    environment: dict[str, str] = field(default_factory=dict)
    kill_at: int | None = None  # the so-many-th operation on a file below `out`
    kill_after_s: float | None = None
    stop_at: int | None = None  # SIGTERM after this step
    double: bool = False  # float64
    packed: bool = True


@dataclass(frozen=True)
class Answer:
    """What became of it."""

    codes: list[int]  # exit code of each process, negative for a signal
    said: str  # stderr of all
    operations: int  # on files below `out`, by the first process
    seconds: float


def serve() -> None:
    """Until stdin ends."""
    sys.path.append(str(Path(__file__).parents[1]))
    from support import planned_once

    planned_once.use()
    for line in sys.stdin:
        print(json.dumps(vars(answer(Request(**json.loads(line))))), flush=True)


def answer(request: Request) -> Answer:
    """Forks, waits, tells."""
    said = Path(f"{request.out}.said")
    counted = Path(f"{request.out}.operations")
    counted.unlink(missing_ok=True)
    started_s, port = time.monotonic(), _free_port()
    children = []
    with said.open("w") as stderr:
        for rank in range(request.processes):
            child = os.fork()
            if child == 0:
                os.dup2(stderr.fileno(), 1)
                os.dup2(stderr.fileno(), 2)
                os._exit(_child(request, rank, port, counted))
            children.append(child)
        if request.kill_after_s is not None:
            time.sleep(request.kill_after_s)
            with contextlib.suppress(ProcessLookupError):
                os.kill(children[0], signal.SIGKILL)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    operations = int(counted.read_text()) if counted.is_file() else 0
    return Answer(codes, said.read_text(), operations, time.monotonic() - started_s)


def _child(request: Request, rank: int, port: int, counted: Path) -> int:
    os.environ.update(request.environment)
    if request.processes > 1:
        ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": request.processes}
        os.environ.update({name: str(value) for name, value in ranks.items()})
        os.environ.update(
            LOCAL_WORLD_SIZE=str(request.processes), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
        )
    count = _count_operations(request) if rank == 0 else [0]
    try:
        _change(request)
        done = fine_tune.train(Recipe.load(Path(request.recipe)), Path(request.out), resume=request.resume)
        code = 130 if done.record().status == "interrupted" else 0
    except PtuneError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    except BaseException:
        traceback.print_exc()
        code = 70
    if rank == 0:
        counted.write_text(str(count[0]))
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _count_operations(request: Request) -> list[int]:
    """Counts what Python does to files below `out`, and dies at the one that the request names."""
    count, main = [0], threading.get_ident()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod"):
            return
        if threading.get_ident() == main and str(arguments[0]).startswith(f"{request.out}/"):
            count[0] += 1
            if count[0] == request.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return count


def _change(request: Request) -> None:
    if request.double:
        _replace(fine_tune, "applied", _in_float64)
    if not request.packed:
        _replace(work, "packing", _not_packing)
    if request.stop_at is not None:
        step = loop.optimizer_step

        def stopping(job: Job, batch: Any, at: int, *more: Any) -> Any:
            if at + 1 == request.stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
            return step(job, batch, at, *more)

        _replace(loop, "optimizer_step", stopping)


def _replace(module: ModuleType, name: str, by: Callable[..., Any]) -> None:
    """For good, as the process is of this request alone; never what the module does not have."""
    mock.patch.object(module, name, by).start()


def _in_float64(recipe: Recipe, backbone: PreTrainedModel, *more: Any) -> nn.Module:
    return applied(recipe, backbone.double(), *more).double()


@contextlib.contextmanager
def _not_packing(*_: object) -> Iterator[bool]:
    yield False


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


if __name__ == "__main__":
    serve()
