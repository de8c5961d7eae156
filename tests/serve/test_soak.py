"""The soak's short forms; the long one is `scripts/soak`."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.soak_traffic import Expected, Traffic
from support.soaking import Report, Sample, _judge, soak


@pytest.mark.parametrize("seconds", [20, pytest.param(120, marks=pytest.mark.slow)])
def test_a_soak(tmp_path: Path, seconds: int) -> None:
    """Memory may grow by more in so short a time: caches fill still."""
    report = soak(tmp_path, seconds, growth=0.1)
    assert report.wrong == []
    assert report.exit_code == 0
    assert report.done.keys() == {"whole", "stream", "cancel", "nonsense", "swap"}
    assert min(report.done.values()) >= 2


def test_growth_is_seen() -> None:
    report = Report(1, 0)
    _judge(report, [Sample(at, 100 + at, 5, 9 + at) for at in range(20)], 0.02)
    assert [line.split()[0] for line in report.wrong] == ["memory", "descriptors:"]
    report = Report(1, 0)
    _judge(report, [Sample(at, 100 + at % 2, 5, 9 + at % 3) for at in range(20)], 0.02)
    assert report.wrong == []


def test_a_wrong_answer_is_seen() -> None:
    traffic = Traffic("http://unused", Expected([[1]], {}), {})
    body = {"model": "base", "prompt": [1]}
    traffic._compare(body, [5, 6, 7], [5, 6, 7])
    traffic._compare(body, [5, 2], [5, 2, 7])
    assert traffic.wrong == []
    for answer in ([5, 6, 8], [5, 6], [], [5, 2, 7, 8]):
        traffic._compare(body, answer, [5, 6, 7])
    assert len(traffic.wrong) == 4
