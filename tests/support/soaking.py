"""Random traffic against a real server process for as long as one likes: scripts/soak [--minutes 30]

The server has a tiny random Llama and adapters that do not fit into its memory together. Clients ask whole and streamed, go
away in the middle, send nonsense, and add and remove adapters; every answer is compared with transformers' own. At the end
nothing may be left: no row, no slot, no thread, no file descriptor, no memory (2 % after the first fifth), no adapter on the
disk, and the server must exit with 0. Writes benchmarks/results/soak.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random

import httpx
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.sides import described
from support.living_adapters import Living, Process, living
from support.soak_traffic import Expected, Traffic

PACKAGES = ("ptune", "onnxruntime", "uvicorn", "fastapi")
ROWS, WORKERS = 6, 8
GROWTH = 0.02
OPTIONS = ("--adapter-bytes", "90kB", "--max-rows", str(ROWS), "--max-adapters", "50")


@dataclass(frozen=True)
class Sample:
    """A server at one moment."""

    at_s: float
    rss_mb: float
    threads: int
    descriptors: int


@dataclass
class Report:
    """What a soak has found; `wrong` is empty where all was well."""

    minutes: float
    seed: int
    done: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    rss_mb: tuple[float, float] = (0, 0)  # after the warm-up, at the end: medians
    growth: float = 0.0
    threads: tuple[int, int] = (0, 0)
    descriptors: tuple[int, int] = (0, 0)
    exit_code: int | None = None


def soak(
    folder: Path,
    seconds: float,
    *,
    seed: int = 0,
    growth: float = GROWTH,
    tell: Callable[[str], None] = print,
) -> Report:
    """Starts a server below `folder` and lets traffic at it for so long. growth: share by which its memory may grow."""
    there = living(folder)
    expected = Expected.of(there, Random(seed))
    report = Report(minutes=round(seconds / 60, 2), seed=seed)
    server = Process(there.folder, folder / "ready", *OPTIONS)
    try:
        traffic = Traffic(str(server.http.base_url), expected, there.folders, seed)
        samples = asyncio.run(_run(server, traffic, seconds, tell))
        report.done, report.wrong = dict(traffic.done), traffic.wrong
        _judge(report, samples, growth)
        _all_slots(server, expected, report)
        server.process.send_signal(signal.SIGTERM)
        report.exit_code = server.process.wait(120)
    finally:
        server.kill()
    _left(there, server.said.read_text(), report)
    return report


async def _run(
    server: Process, traffic: Traffic, seconds: float, tell: Callable[[str], None]
) -> list[Sample]:
    """Samples twenty times or every ten seconds, whichever is more often; the last one when all is quiet again."""
    working = asyncio.create_task(traffic.run(WORKERS))
    begun_s, samples, told_s = time.monotonic(), [], 0.0
    while (past_s := time.monotonic() - begun_s) < seconds and not working.done():
        await asyncio.sleep(min(10.0, seconds / 20))
        samples.append(_sample(server, past_s))
        if past_s - told_s >= min(60, seconds / 4):
            told_s = past_s
            one = samples[-1]
            tell(
                f"{past_s / 60:5.1f} min  {sum(traffic.done.values())} requests  {len(traffic.wrong)} wrong  "
                f"{one.rss_mb:.1f} MB  {one.threads} threads  {one.descriptors} descriptors"
            )
    traffic.stop.set()
    await working
    return samples


def _sample(server: Process, at_s: float) -> Sample:
    process = Path(f"/proc/{server.process.pid}")
    said = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines() if ":" in line)
    descriptors = len(list((process / "fd").iterdir()))
    return Sample(at_s, int(said["VmRSS"].split()[0]) / 1024, int(said["Threads"]), descriptors)


def _judge(report: Report, samples: list[Sample], growth: float) -> None:
    """Memory by medians of a tenth of the samples, after the first fifth and at the end; the rest by the most seen after it."""
    warm = samples[len(samples) // 5 :]
    few = max(len(warm) // 8, 2)
    first, last = warm[:few], warm[-few:]
    before, after = (statistics.median(one.rss_mb for one in part) for part in (first, last))
    report.rss_mb, report.growth = (round(before, 1), round(after, 1)), round(after / before - 1, 4)
    if report.growth > growth:
        report.wrong.append(f"memory has grown by {report.growth:.1%}, from {before:.1f} to {after:.1f} MB")
    half = len(warm) // 2
    for name, slack in (("threads", 4), ("descriptors", 4)):
        early, late = (max(getattr(one, name) for one in part) for part in (warm[:half], warm[half:]))
        setattr(report, name, (early, late))
        if late > early + slack:
            report.wrong.append(f"{name}: {early} in the first half, {late} in the second")


def _all_slots(server: Process, expected: Expected, report: Report) -> None:
    """When all is quiet nothing runs; and as many rows as ever can be computed together."""
    end_s = time.monotonic() + 30
    while any((numbers := _numbers(server.http))[name] for name in ("running", "waiting")):
        if time.monotonic() > end_s:
            report.wrong.append(f"still there when all clients had gone: {numbers}")
            return
        time.sleep(0.05)
    if numbers["failed"]:
        report.wrong.append(f"{numbers['failed']:.0f} steps failed")
    body = {"model": "base", "prompt": expected.prompts[0], "n": 4 * ROWS, "max_tokens": 200}
    most = asyncio.run(_most_rows(str(server.http.base_url), {**body, "logit_bias": {"2": -100}}))
    if most != ROWS:
        report.wrong.append(f"{most} rows run together at most, of {ROWS}: slots are lost")


async def _most_rows(url: str, body: dict[str, object]) -> int:
    """Rows that run at once while there is more than enough to do."""
    most = 0
    async with httpx.AsyncClient(base_url=url, timeout=120) as http:
        asking = asyncio.create_task(http.post("/v1/completions", json=body))
        while not asking.done():
            text = (await http.get("/metrics")).text
            most = max(most, int(_read(text)["running"]))
        (await asking).raise_for_status()
    return most


def _numbers(http: httpx.Client) -> dict[str, float]:
    return _read(http.get("/metrics").text)


def _read(text: str) -> dict[str, float]:
    names = {
        "running": "num_requests_running",
        "waiting": "num_requests_waiting",
        "failed": "failed_steps_total",
    }
    values = {
        one.name: one.value for family in text_string_to_metric_families(text) for one in family.samples
    }
    return {name: values[f"ptune_{metric}"] for name, metric in names.items()}


def _left(there: Living, said: str, report: Report) -> None:
    """What the server has left behind."""
    if report.exit_code != 0:
        report.wrong.append(f"the server's exit code is {report.exit_code}")
    if "Traceback" in said or "failed" in said:
        report.wrong.append(f"the server's log: {said[-2000:]}")
    folders = sorted(path.name for path in (there.folder / "adapters").iterdir())
    if folders != ["narrow", "wide"]:
        report.wrong.append(f"folders of adapters are left: {folders}")


def main() -> int:
    """0 where all was well."""
    options = argparse.ArgumentParser(
        prog="scripts/soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--minutes", type=float, default=30)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--out", type=Path, default=Path("benchmarks/results/soak.json"))
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="ptune-soak-") as folder:
        report = soak(Path(folder), chosen.minutes * 60, seed=chosen.seed)
    found = described({"command": "scripts/soak", **asdict(report)}, PACKAGES)
    chosen.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))
    print("all was well" if not report.wrong else f"{len(report.wrong)} things were wrong")
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
