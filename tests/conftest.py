"""Every test is offline, on few threads, and repeatable. `--fast`: only those that need no torch, process or browser."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from support import examples
from support.fast_selection import left_out, needs
from support.sharing import group_of

if TYPE_CHECKING:
    from xdist.scheduler import LoadFileScheduling

settings.register_profile("untimed", deadline=None)  # how long an example takes is the machine's business
settings.load_profile("untimed")

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("OMP_NUM_THREADS", "2")

os.environ.pop(
    "PYTHONDONTWRITEBYTECODE", None
)  # a server that a test starts would be compiled for longer than it runs

gc.set_threshold(20_000, 20, 20)  # as it is, a tenth of the time goes into looking for garbage

_folders = []
for _folder in ("PTUNE_CACHE", "PTUNE_TESTS_MADE"):  # nothing is left in the user's own cache
    if _folder not in os.environ:  # processes that tests start, and those that share the suite, have the same
        _folders.append(tempfile.TemporaryDirectory(prefix=f"{_folder.lower()}-"))
        os.environ[_folder] = _folders[-1].name


def _checked(file: int) -> None:
    """In place of os.fsync, which takes milliseconds: no test cuts the power."""
    os.fstat(file)


os.fsync = _checked  # type: ignore[assignment]


LONGEST_FIRST = (  # with what shares a process with them
    "test_whole_way.py",
    "test_families.py",
    "test_models.py",
    "test_killed.py",
    "test_publish.py",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fast",
        action="store_true",
        help="only tests that need no torch, no process of their own and no browser",
    )
    parser.addoption(
        "--part", metavar="PART/PARTS", help="of the selected tests every PARTS-th, from the PART-th on"
    )


def pytest_configure(config: pytest.Config) -> None:
    examples.by_day = config.getoption("markexpr") == "not slow"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Files whose import alone brings torch are not even imported."""
    if not config.getoption("fast") or not collection_path.match("test_*.py"):
        return None
    return needs(collection_path).whole_file is not None or None


@pytest.hookimpl(trylast=True)  # when -m has selected
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Files that take minutes begin at once: where processes share the work, one that came last would run alone."""
    rank = {name: at for at, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))
    selected = list(items)
    if config.getoption("fast"):
        selected = [item for item in items if needs(item.path).of(function_name(item)) is None]
    if (given := config.getoption("part")) is not None:
        part, parts = map(int, given.split("/"))
        selected = selected[part - 1 :: parts]
    config.hook.pytest_deselected(items=[item for item in items if item not in selected])
    items[:] = selected


def pytest_collection_finish(session: pytest.Session) -> None:
    """What is imported by now is not searched for garbage again. What takes long and is tested elsewhere is made once."""
    gc.freeze()
    if "torch" in sys.modules and not session.config.getoption("fast"):
        from support import planned_once, served_here, traced_once

        for shorter in (planned_once, served_here, traced_once):
            shorter.use()


def pytest_unconfigure() -> None:
    """Triton, which comes with CUDA builds of torch, tells behind pytest's last line of what is not collected."""
    if "triton._C.libtriton" in sys.modules:
        gc.unfreeze()


@pytest.hookimpl(optionalhook=True)  # pytest-xdist's
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    """With --dist loadfile, files that make the same models stay in one process, too."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Sharing(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(config.rootpath / super()._split_scope(nodeid))

    return Sharing(config, log)


def function_name(item: pytest.Item) -> str:
    """Without the case in brackets."""
    return getattr(item, "originalname", None) or item.name


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """In a fast session the first test after which torch is loaded fails: the selection is wrong, or the code is."""
    loaded = "torch" in sys.modules
    yield
    if item.config.getoption("fast") and not loaded and "torch" in sys.modules:
        pytest.fail("this test imported torch: mark it `needs_torch`, or keep torch out of it", pytrace=False)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A fast session that has loaded torch fails even where it came with a conftest or a fixture."""
    if (
        session.config.getoption("fast")
        and "torch" in sys.modules
        and session.exitstatus == pytest.ExitCode.OK
    ):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.getoption("fast"):
        terminalreporter.write_line(str(left_out(Path(__file__).parent)))
        if "torch" in sys.modules:
            terminalreporter.write_line("--fast: torch was imported, so this session failed")
