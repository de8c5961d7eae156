"""Code of answers in processes of their own: what it may do, and that nothing is left of it. No bomb here grows beyond 64."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.fake_chat_model import wait_until

from ptune.rewards import RewardError, rewards_of
from ptune.rewards.code import CONFINED, Limits, block_of, code, passed


def namespaces() -> bool:
    """Whether this system lets a process have its own."""
    command = ["unshare", "--user", "--pid", "--net", "--fork", "true"]
    return shutil.which(command[0]) is not None and not subprocess.run(command, check=False).returncode


NAMESPACES = namespaces()
confined = pytest.mark.skipif(
    os.getuid() == 0 and not NAMESPACES, reason="root runs no code where there are no namespaces"
)
LOOP = "while True: pass"
PATIENT = Limits(wall_s=60)  # so that no busy machine decides


def score(program: str, tests: Any, limits: Limits = PATIENT) -> float | None:
    text = f"Here it is:\n```python\n{program}\n```\nDone."
    (found,) = code(None, limits)(prompts=["?"], completions=[text], tests=[tests])
    return found


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    file = tmp_path / "lock"
    file.touch()
    return file


def held(lock: Path) -> str:
    """Code that holds a lock on a file for as long as one of its processes lives."""
    return f"import fcntl, os, time\nlock = open({str(lock)!r})\nfcntl.flock(lock, fcntl.LOCK_SH)\nos.set_inheritable(lock.fileno(), True)\n"  # fmt: skip


def require_nobody_holds(lock: Path) -> None:
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises where a process is left


@confined
def test_tests_are_counted() -> None:
    program = "def double(n):\n    return 2 * n"
    assert score(program, "assert double(2) == 4\nassert double(0) == 0") == 1
    assert score(program, "assert double(2) == 4\nassert double(0) == 1") == 0
    assert (
        score(program, ["assert double(2) == 4", "assert double(0) == 1", "x = double(3)", "assert x == 6"])
        == 0.75
    )
    assert score(program, None) is None
    assert score("def double(n: return", "pass") == 0
    assert score("import collections, json, math, re", "pass") == 1


@confined
@pytest.mark.parametrize("end", ["raise SystemExit", "import sys; sys.exit(0)", "exit()"])
def test_a_test_that_exits_fails_alone(end: str) -> None:
    assert score("x = 3", ["assert x == 3", end, "assert x == 3"]) == 2 / 3
    assert score(f"x = 3\n{end}", ["assert x == 3", "assert x == 4"]) == 0.5


@confined
def test_several_run_at_once_and_keep_their_order() -> None:
    reward = code("checks", PATIENT, at_once=3)
    answers = [f"```python\nimport time\ntime.sleep({(6 - n) / 20})\nn = {n}\n```" for n in range(6)]
    found = reward(
        prompts=["?"] * 6, completions=answers, checks=[f"assert n in ({n}, 4)" for n in (0, 9, 2, 3, 9, 9)]
    )
    assert found == [1, 0, 1, 1, 1, 0]


@pytest.mark.parametrize(
    ("text", "block"),
    [
        ("```python\na\n```", "a\n"),
        ("```py\na\n```\nor\n```python3\nb\n```", "b\n"),
        ("```Python\r\na\n```", "a\n"),
        ("```python\ncut off", "cut off"),
        ("```python\nmarks = '```'\n```\nDone.", "marks = '```'\n"),
        ("```json\n{}\n```", None),
        ("a = 1", None),
    ],
)
def test_the_last_python_block_is_run(text: str, block: str | None) -> None:
    assert block_of(text) == block


@confined
@pytest.mark.parametrize(
    "program",
    [
        "import os; os._exit(0)",
        "raise SystemExit(0)",
        "import sys; sys.exit()",
        "print('0')\nfor fd in range(3, 9):\n    try:\n        import os; os.write(fd, b'x 0\\n' * 9)\n    except OSError:\n        pass\nos._exit(0)",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "import ctypes; ctypes.string_at(0)",
    ],
)  # fmt: skip
def test_ending_early_passes_no_test(program: str) -> None:
    assert score(program, "assert False") == 0


@confined
def test_an_endless_loop_ends_at_the_limit_of_time() -> None:
    for limits in (Limits(wall_s=0.5), Limits(wall_s=600, cpu_s=1)):
        assert score(LOOP, "pass", limits) == 0


@confined
def test_what_passed_before_the_limit_counts() -> None:
    tests = ["assert n == 1", LOOP]
    assert score("n = 1", tests, Limits(wall_s=600, cpu_s=1)) == 0.5
    # A machine however busy comes to the loop within the last of them.
    assert any(score("n = 1", tests, Limits(wall_s=limit_s)) == 0.5 for limit_s in (0.5, 2, 8, 32))


@confined
def test_memory_has_a_limit() -> None:
    assert score("block = bytearray(1 << 26)", "pass") == 1
    assert score("block = bytearray(1 << 31)", "pass") == 0


@confined
def test_files_have_a_limit_and_are_gone_afterwards() -> None:
    program = "import os\nplace = os.getcwd()\nopen('small', 'w').write('x')\n"
    assert score(program, "assert os.listdir() == ['small'] and 'ptune-code-' in place") == 1
    assert score("open('large', 'wb').write(bytes(1 << 25))", "pass") == 0


@confined
def test_output_goes_nowhere() -> None:
    flood = "for _ in range(2000): print('x' * 100_000)"
    assert score(flood, "pass") == 1


@confined
def test_input_is_empty() -> None:
    assert score("import sys; text = sys.stdin.read()", "assert text == ''") == 1


@confined
def test_it_sees_nothing_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", "x")
    assert score("import os", "assert 'A_SECRET' not in os.environ") == 1


@confined
def test_children_that_outlive_it_are_ended(lock: Path) -> None:
    program = (
        held(lock)
        + "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        time.sleep(600)\n    os._exit(0)"
    )
    assert score(program, "pass") == 1
    require_nobody_holds(lock)


@confined
@pytest.mark.parametrize("alone", ["", "os.setsid()"])
def test_a_bomb_of_processes_is_ended_with_all_of_them(lock: Path, alone: str) -> None:
    program = (
        held(lock) + f"for _ in range(6):\n    if os.fork() == 0:\n        {alone or 'pass'}\ntime.sleep(600)"
    )
    assert score(program, "pass") == 0
    require_nobody_holds(lock)


@confined
def test_a_few_processes_and_threads_may_run() -> None:
    program = (
        "import subprocess, sys, threading\n"
        "said = subprocess.run([sys.executable, '-c', 'print(5)'], capture_output=True).stdout\n"
        "thread = threading.Thread(target=print)\nthread.start()\nthread.join()"
    )
    assert score(program, "assert said == b'5\\n'") == 1


@pytest.mark.skipif(not NAMESPACES, reason="this system lets no process leave the network")
def test_there_is_no_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        program = f"import socket\ntry:\n    socket.create_connection(('127.0.0.1', {port}), 1)\n    there = True\nexcept OSError:\n    there = False"
        assert score(program, "assert not there") == 1


@confined
def test_who_is_stopped_leaves_nothing(lock: Path) -> None:
    """The process that watches is killed from outside."""
    job = {
        "program": held(lock) + "time.sleep(600)",
        "tests": ["pass"],
        "token": "t",
        "wall_s": 500,
        "cpu_s": 9,
    }
    job |= {"memory_bytes": 1 << 30, "processes": 16, "file_bytes": 1 << 20}
    process = subprocess.Popen(
        [sys.executable, "-I", str(CONFINED)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(job).encode())
    process.stdin.close()
    wait_until(lambda: not free(lock))
    process.kill()
    process.wait()
    wait_until(lambda: free(lock))


def free(lock: Path) -> bool:
    try:
        require_nobody_holds(lock)
    except BlockingIOError:
        return False
    return True


@pytest.mark.parametrize("tests", [3, [], ["pass", 3], {"a": "pass"}])
def test_tests_that_are_none(tests: Any) -> None:
    (reward,) = rewards_of(["code"])
    with pytest.raises(
        RewardError, match="reward 'code': the column 'tests' of answer 1 has to be a text or a list of texts"
    ):
        reward(["?"], ["```python\n```"], {"tests": [tests]})


@confined
def test_the_count_of_tests_that_passed() -> None:
    assert passed("a = 1", ["assert a == 1", "assert a == 2", "assert a < 2"], PATIENT) == 2


@pytest.mark.parametrize(
    ("status", "words"),
    [(3, r"gives processes no namespaces of their own \(unshare\)"), (1, "confined.py, which runs answers, ended with status 1")],
)  # fmt: skip
def test_what_cannot_be_confined_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, words: str
) -> None:
    (tmp_path / "confined.py").write_text(f"import sys\nsys.stdin.read()\nsys.exit({status})")
    monkeypatch.setattr("ptune.rewards.code.CONFINED", tmp_path / "confined.py")
    (reward,) = rewards_of(["code"])
    with pytest.raises(RewardError, match=words):
        reward(["?"], ["```python\n```"], {"tests": ["pass"]})
