"""The queue on disk: order, ends, and what is left when a runner or a studio is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fake_chat_model import wait_until

from ptune.errors import UsageError
from ptune.studio.jobs.processes import began, runs
from ptune.studio.jobs.queue import Job, Jobs
from ptune.studio.workspace import Workspace

SLEEPS = ("sleep", "600")
AT_A_SIGN = "while ! test -e {}; do sleep 0.02; done; "  # in a shell: until there is such a file


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    return Jobs(Workspace(tmp_path))


def _pid(jobs: Jobs, job: Job, process: str) -> int:
    path = jobs.workspace.jobs / job.id / f"{process}.json"
    wait_until(path.exists)
    pid = json.loads(path.read_text())["pid"]
    assert isinstance(pid, int)
    return pid


def _is(jobs: Jobs, job: Job, *states: str) -> Callable[[], bool]:
    return lambda: jobs.get(job.id).state in states


def test_one_after_the_other_in_the_order_they_came(jobs: Jobs, tmp_path: Path) -> None:
    lines = f"echo {{0}} begins >> order; {AT_A_SIGN.format('all-asked')} echo {{0}} ends >> order"
    made = [jobs.add("train", name, ("sh", "-c", lines.format(name))) for name in "abc"]
    assert [job.state for job in jobs.all()] == ["running", "waiting", "waiting"]
    (tmp_path / "all-asked").touch()
    wait_until(_is(jobs, made[-1], "done"))
    assert (tmp_path / "order").read_text().split("\n")[:-1] == [
        f"{name} {what}" for name in "abc" for what in ("begins", "ends")
    ]
    assert [job.returncode for job in jobs.all()] == [0, 0, 0]


def test_a_server_runs_beside_the_queue(jobs: Jobs) -> None:
    training = jobs.add("train", "mine", SLEEPS)
    server = jobs.add("serve", "mine", SLEEPS)
    assert [jobs.get(job.id).state for job in (training, server)] == ["running", "running"]
    for job in (training, server):
        jobs.stop(job.id)
        wait_until(_is(jobs, job, "stopped"))


def test_a_job_says_what_it_said_and_how_it_ended(jobs: Jobs) -> None:
    failing = jobs.add("train", "bad", ("sh", "-c", "echo so far; echo error: no such data >&2; exit 3"))
    wait_until(_is(jobs, failing, "failed"))
    assert jobs.get(failing.id).returncode == 3
    assert jobs.log(failing.id) == "so far\nerror: no such data\n"
    missing = jobs.add("train", "bad", ("no-such-command-at-all",))
    wait_until(_is(jobs, missing, "failed"))
    assert "no-such-command-at-all cannot be started" in jobs.log(missing.id)


def test_a_waiting_job_that_is_stopped_never_begins(jobs: Jobs, tmp_path: Path) -> None:
    first = jobs.add("train", "first", SLEEPS)
    second = jobs.add("train", "second", ("touch", "begun"))
    jobs.stop(second.id)
    assert jobs.get(second.id).state == "stopped"
    jobs.stop(first.id)
    wait_until(_is(jobs, first, "stopped"))
    jobs.advance()
    assert jobs.get(second.id).state == "stopped"
    assert not (tmp_path / "begun").exists()


def test_stop_is_ctrl_c_and_a_command_may_end_in_its_own_way(jobs: Jobs) -> None:
    ends = "import time\ntry:\n    print('begun', flush=True); time.sleep(60)\nexcept KeyboardInterrupt:\n    print('saved'); raise SystemExit(130)"
    job = jobs.add("train", "mine", (sys.executable, "-c", ends))
    wait_until(lambda: "begun" in jobs.log(job.id))
    jobs.stop(job.id)
    wait_until(_is(jobs, job, "stopped"))
    assert jobs.log(job.id) == "begun\nsaved\n"
    assert jobs.get(job.id).returncode == 130


def test_ctrl_c_arrives_where_the_studio_was_started_in_the_background(tmp_path: Path) -> None:
    """A shell starts `ptune studio &` with SIGINT ignored, and what is ignored is inherited."""
    script = (
        "import signal, sys; from pathlib import Path; signal.signal(signal.SIGINT, signal.SIG_IGN);"
        "from ptune.studio.jobs.queue import Jobs; from ptune.studio.workspace import Workspace;"
        f"Jobs(Workspace(Path({str(tmp_path)!r}))).add('train', 'mine', {SLEEPS!r})"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    jobs = Jobs(Workspace(tmp_path))
    [job] = jobs.all()
    _pid(jobs, job, "child")
    jobs.stop(job.id)
    wait_until(_is(jobs, job, "stopped"))


def test_a_killed_runner_leaves_the_command_to_its_end(jobs: Jobs, tmp_path: Path) -> None:
    job = jobs.add("train", "mine", ("sh", "-c", AT_A_SIGN.format("killed") + "touch finished"))
    child = _pid(jobs, job, "child")
    os.kill(_pid(jobs, job, "runner"), signal.SIGKILL)
    assert jobs.get(job.id).state == "running", "its command goes on"
    follower = jobs.add("train", "next", ("true",))
    assert jobs.get(follower.id).state == "waiting"
    (tmp_path / "killed").touch()
    wait_until(lambda: not runs(child, began(child)))
    assert (tmp_path / "finished").exists()
    ended = jobs.get(job.id)
    assert (ended.state, ended.returncode) == ("failed", None), "nobody knows how it ended"
    jobs.advance()
    wait_until(_is(jobs, follower, "done"))


def test_a_killed_command_has_failed(jobs: Jobs) -> None:
    job = jobs.add("train", "mine", SLEEPS)
    os.kill(_pid(jobs, job, "child"), signal.SIGKILL)
    wait_until(_is(jobs, job, "failed"))
    assert jobs.get(job.id).returncode == -signal.SIGKILL


def test_jobs_outlive_the_studio_and_the_queue_goes_on_without_one(tmp_path: Path) -> None:
    script = (
        "import os, signal; from pathlib import Path; from ptune.studio.jobs.queue import Jobs;"
        "from ptune.studio.workspace import Workspace;"
        f"jobs = Jobs(Workspace(Path({str(tmp_path)!r})));"
        f"jobs.add('train', 'one', ('sh', '-c', {AT_A_SIGN.format('killed') + 'touch one'!r}));"
        "jobs.add('train', 'two', ('touch', 'two'));"
        "os.killpg(os.getpgrp(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", script], start_new_session=True)
    assert killed.returncode == -signal.SIGKILL
    (tmp_path / "killed").touch()
    wait_until((tmp_path / "two").exists)
    jobs = Jobs(Workspace(tmp_path))
    wait_until(lambda: [job.state for job in jobs.all()] == ["done", "done"])


def test_two_studios_on_one_folder_run_each_job_once(tmp_path: Path) -> None:
    Workspace(tmp_path)
    script = (
        "import sys; from pathlib import Path; from ptune.studio.jobs.queue import Jobs;"
        "from ptune.studio.workspace import Workspace;"
        f"jobs = Jobs(Workspace(Path({str(tmp_path)!r})));"
        "[jobs.add('train', sys.argv[1] + str(at), ('sh', '-c', 'echo b >> f; sleep 0.05; echo e >> f')) for at in range(3)]"
    )
    studios = [subprocess.Popen([sys.executable, "-c", script, name]) for name in "xy"]
    assert [studio.wait() for studio in studios] == [0, 0]
    jobs = Jobs(Workspace(tmp_path))
    wait_until(lambda: [job.state for job in jobs.all()] == ["done"] * 6)
    assert sorted(job.name for job in jobs.all()) == ["x0", "x1", "x2", "y0", "y1", "y2"]
    assert (tmp_path / "f").read_text().split() == ["b", "e"] * 6, "one at a time, each once"


def test_only_what_has_ended_can_be_forgotten(jobs: Jobs) -> None:
    job = jobs.add("train", "mine", SLEEPS)
    with pytest.raises(UsageError, match="is running: stop it first"):
        jobs.remove(job.id)
    jobs.stop(job.id)
    wait_until(_is(jobs, job, "stopped"))
    jobs.remove(job.id)
    assert jobs.all() == []
    for name in (job.id, "../../etc", "x", ""):
        with pytest.raises(UsageError, match="there is no job"):
            jobs.get(name)


def test_children_are_nice(jobs: Jobs) -> None:
    job = jobs.add("train", "mine", SLEEPS)
    assert os.getpriority(os.PRIO_PROCESS, _pid(jobs, job, "child")) >= min(
        19, os.getpriority(os.PRIO_PROCESS, 0) + 10
    )
    jobs.stop(job.id)
    wait_until(_is(jobs, job, "stopped"))


LIVES = {"pid": os.getpid(), "began": began(os.getpid())}
DEAD = (
    {"pid": os.getpid(), "began": "another life"},
    {"pid": 2**22 + 1, "began": "1"},
    {"pid": os.getpid(), "began": None},
)
PROCESS = st.one_of(st.none(), st.just(LIVES), st.sampled_from(DEAD))


@given(
    kind=st.sampled_from(("train", "serve")),
    runner=PROCESS,
    child=PROCESS,
    code=st.one_of(st.none(), st.sampled_from((0, 1, 130, -2, -9))),
    stop=st.booleans(),
)
def test_a_state_follows_from_the_files_alone(
    kind: str, runner: dict[str, object] | None, child: dict[str, object] | None, code: int | None, stop: bool
) -> None:
    with tempfile.TemporaryDirectory() as place:
        jobs = Jobs(Workspace(Path(place)))
        folder = jobs.workspace.jobs / "00001"
        folder.mkdir()
        files: dict[str, object] = {"job": {"kind": kind, "name": "mine", "command": ["true"], "added": 1.0}}
        files |= {} if runner is None else {"runner": {**runner, "started": 2.0}}
        files |= {} if child is None else {"child": child}
        files |= {} if code is None else {"ended": {"returncode": code, "ended": 3.0}}
        files |= {"stop": {}} if stop else {}
        for name, value in files.items():
            (folder / f"{name}.json").write_text(json.dumps(value))
        [job] = jobs.all()
    if code is not None:  # it has ended, whoever seems to run
        interrupted = code in (130, -2) or (stop and (code != 0 or kind == "serve"))
        expected = "stopped" if interrupted else "done" if code == 0 else "failed"
    elif runner is None:
        expected = "stopped" if stop else "waiting"
    elif LIVES in (runner, child):
        expected = "running"
    else:
        expected = "stopped" if stop else "failed"
    assert job.state == expected
    assert job.returncode == code


def test_a_damaged_job_hides_no_other(jobs: Jobs) -> None:
    job = jobs.add("train", "mine", ("true",))
    for number, text in (("00007", "{"), ("00008", "[]"), ("00009", "{}")):
        (jobs.workspace.jobs / number).mkdir()
        (jobs.workspace.jobs / number / "job.json").write_text(text)
    (jobs.workspace.jobs / "00010").mkdir()
    assert [one.id for one in jobs.all()] == [job.id]
    wait_until(_is(jobs, job, "done"))
    assert jobs.add("train", "mine", ("true",)).id > "00010"


def test_an_old_log_is_read_from_its_end(jobs: Jobs) -> None:
    job = jobs.add("train", "mine", ("sh", "-c", "seq 1 100000"))
    wait_until(_is(jobs, job, "done"))
    log = jobs.log(job.id)
    assert len(log) <= 200_000
    assert log.endswith("99999\n100000\n")


def test_a_process_is_known_by_its_beginning() -> None:
    with subprocess.Popen(SLEEPS) as process:
        since = began(process.pid)
        assert since is not None
        assert runs(process.pid, since)
        assert not runs(process.pid, since + "0")
        process.kill()
        wait_until(lambda: not runs(process.pid, since))  # a zombie, which nobody has asked after
    assert began(process.pid) is None
    assert not runs(process.pid, None)
