"""What the page shows as HTML: nothing of the data runs there, and figures are those of the files."""

from __future__ import annotations

import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ptune.begin.look import Look
from ptune.formats.bundle import BaseIdentity
from ptune.formats.run import RunRecord
from ptune.studio.ask import answer_in
from ptune.studio.data import shown as shown_data
from ptune.studio.jobs.log import problem_in
from ptune.studio.jobs.queue import Job
from ptune.studio.recipe import shown as shown_recipe
from ptune.studio.run import courses, plots
from ptune.studio.run import shown as shown_runs
from ptune.studio.run.courses import Course
from ptune.studio.workspace import Workspace

KNOWN = {
    "a", "article", "b", "button", "circle", "code", "dd", "div", "dl", "dt", "figcaption", "figure", "h2", "h3", "header", "i", "li", "line",
    "mark", "p", "polyline", "small", "span", "svg", "table", "td", "text", "th", "tr", "ul",
}  # fmt: skip


class _Tags(HTMLParser):
    """The tags of a page, and whether any attribute would run."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.runs = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.runs |= any(name.startswith("on") or name in ("src", "href") for name, _ in attrs)


def _safe(html: str) -> bool:
    read = _Tags(html)
    return read.tags <= KNOWN and not read.runs


EVIL = st.text(max_size=40) | st.sampled_from(
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "' onmouseover='x",
        '" onmouseover="x',
        "a\nb",
        "</p>",
    ]
)


@given(EVIL, EVIL, EVIL)
def test_data_is_text_wherever_it_is_shown(one: str, two: str, three: str) -> None:
    looked = Look(Path("f"), one, (two,), ({two: three},), numbers=(1,), unreadable=(three,))
    document: dict[str, Any] = {
        "findings": [
            {
                "rule": one,
                "severity": "error",
                "place": {"file": two, "line": 3},
                "count": 2,
                "message": three,
            }
        ],
        "splits": {
            one: {"rows": 3, "labels": {}},
            "train": {"rows": 2, "labels": {two: 1}, "lengths": {"1-2": 3}},
        },
        "rows": [
            {
                "place": {"file": one, "line": 1},
                "tokens": [[two, True], [three, one]],
                "length": 2,
                "left_out": 0,
                "label": two,
            }
        ],
    }
    job = Job("00001", one, two, (three,), "failed", 1.0)
    answered = [{"step": 1, "prompt": one, "answer": two, "ended": False, "expected": three}]
    course = Course(
        one, [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}], None, job, False, samples=answered
    )
    for html in (
        shown_data.look(looked, one), shown_data.findings(document), shown_data.splits(document), shown_data.lengths(document),
        shown_data.rows(document), shown_recipe.diff([(one, two, three)], one), shown_runs.queue([job], 2.0),
        shown_runs.facts(course, 1, 2), plots.charts([course, course]), shown_runs.samples(course),
        shown_recipe.model({"model": one, "family": two, "kind": three, "train": {one: {"works": False, "why": two}}}),
    ):  # fmt: skip
        assert _safe(html), html


def test_what_was_learned_is_marked() -> None:
    html = shown_data.rows(
        {
            "rows": [
                {
                    "place": {"file": "a", "line": 1},
                    "tokens": [["Hi", False], ["there", True]],
                    "length": 2,
                    "left_out": 0,
                }
            ]
        }
    )
    assert '<mark class="token learned" title="learned">there</mark>' in html
    assert "<span class=token>Hi</span>" in html


def _record(**fields: Any) -> RunRecord:
    base = BaseIdentity(source="tiny", hash="0" * 64)
    return RunRecord(created="2024", base=base, **fields)


def test_where_a_run_stands() -> None:
    entries = [{"step": step, "loss": 2.0, "seconds": 0.5, "tokens_per_s": 100.0} for step in range(1, 11)]
    entries.append({"step": 10, "validation_loss": 1.25})
    job = Job("00001", "train", "mine", ("ptune",), "running", 1.0, 1.0)
    course = Course("mine", entries, _record(planned_steps=30), job, True)
    assert (course.step, course.planned, course.left_s) == (10, 30, 10.0)
    html = shown_runs.facts(course, 2 * 10**9, 4 * 10**9)
    for figure in ("10 <small>of 30", "about 10 s", "1.25", "2.0 GB", "of 4.0 GB planned", ">100<"):
        assert figure in html
    assert 'aria-valuenow="33"' in html


def test_a_run_that_stopped_early_says_why() -> None:
    said = "Stopped early after step 2 of 9: 8 validations in a row were no better. Step 1 was <kept>."
    record = _record(status="stopped early", steps=2, planned_steps=9, best_step=1, ending=said)
    entries = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]
    told = shown_runs.facts(Course("a", entries, record, None, False), None, None)
    assert "no better. Step 1 was &lt;kept&gt;." in told


def test_before_its_first_step_a_run_says_what_its_job_does() -> None:
    job = Job("00001", "train", "mine", ("ptune",), "running", 1.0, 1.0)
    log = "reading mine.csv\nloading <tiny>\n\n"
    fresh = Course("mine", [], None, job, False)
    assert "Before the first step: loading &lt;tiny&gt; …" in shown_runs.facts(fresh, None, None, log)
    assert "Before the first step: starting …" in shown_runs.facts(fresh, None, None, "")
    entries = [{"step": step, "loss": 2.0, "seconds": 0.5} for step in (1, 2)]
    resumed = Course("mine", entries, _record(planned_steps=30), job, True, stepped=False)
    assert resumed.left_s is None, "it was told by steps of another job"
    html = shown_runs.facts(resumed, None, None, log)
    assert "loading &lt;tiny&gt;" in html
    assert "about" not in html
    at_work = Course("mine", entries, _record(planned_steps=30), job, True)
    assert "Before the first step" not in shown_runs.facts(at_work, None, None, log)
    assert at_work.left_s == 14.0


def test_a_journal_from_before_the_job_is_not_its_own(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    folder = workspace.run("mine")
    folder.mkdir()
    journal = folder / "metrics.jsonl"
    journal.write_text('{"step": 1, "loss": 2.0}\n')
    os.utime(journal, (100.0, 100.0))
    for started, stepped in ((99.0, True), (101.0, False)):
        job = Job("00001", "train", "mine", ("ptune",), "running", 1.0, started)
        assert courses.course(workspace, [job], "mine").stepped is stepped


def test_the_state_of_a_run() -> None:
    def state(status: str | None, job: str | None) -> str:
        record = None if status is None else _record(status=status)
        made = None if job is None else Job("1", "train", "mine", (), job, 1.0)  # type: ignore[arg-type]
        return Course("mine", [], record, made, False).state

    assert state("running", "running") == "running"
    assert state("interrupted", "running") == "running", "it was resumed"
    assert state("interrupted", "stopped") == "interrupted"
    assert state("finished", None) == "finished", "by the command line"
    assert state("running", "failed") == "failed"
    assert state("running", None) == "cut off"
    assert state(None, "waiting") == "waiting"
    assert state(None, "failed") == "failed"


def test_several_runs_have_a_colour_each() -> None:
    several = [
        Course(name, [{"step": step, "loss": 1.0 / step} for step in (1, 2, 3)], None, None, False)
        for name in "ab"
    ]
    html = plots.charts(several)
    assert html.index("line-0") < html.index("line-1")
    assert '<span class="key line-1">b</span>' in html
    assert "Charts begin" in plots.charts([])


def test_charts_do_not_make_noise_a_trend() -> None:
    """Axes of norms and losses begin at 0; steps are whole."""
    entries = [{"step": at, "loss": 1.6 + at / 1000, "grad_norm": 1.434 + at / 1000} for at in (1, 2, 3)]
    html = plots.charts([Course("few", entries, None, None, False)])
    ticks = [
        [float(text) for text in re.findall(r"<text[^>]*>([-\d.e]+)</text>", one)]
        for one in html.split("</figure>")
    ]
    for drawn in filter(None, ticks):
        assert 0.0 in drawn
    across = re.findall(r'text-anchor="middle">([^<]+)<', html)
    assert across
    assert all(text.isdecimal() for text in across)
    below = [{"step": at, "loss": -at / 10} for at in (1, 2, 3)]
    assert ">-0.3<" in plots.charts([Course("reward", below, None, None, False)])


def test_amounts_of_memory() -> None:
    amounts = (999_400_000, 999_600_000, 1_400_000_000)
    assert [shown_recipe.gigabytes(amount) for amount in amounts] == ["999 MB", "1.0 GB", "1.4 GB"]
    document = {
        "needed_bytes": 10**9,
        "memory_bytes": 2 * 10**9,
        "fits": True,
        "weights": 10**9,
        "loss_workspace": 400_000,
    }
    html = shown_recipe.plan(document, "this machine")
    assert "model weights" in html
    assert "0 MB" not in html


def test_long_runs_are_thinned_and_keep_their_end() -> None:
    entries = [{"step": step, "lr": 1.0 + step % 2} for step in range(1, 20_001)]
    html = plots.charts([Course("long", entries, None, None, False)])
    assert len(html) < 40_000
    assert len(entries) > plots.MOST_POINTS


def test_an_answer_is_a_document_or_a_sentence() -> None:
    assert answer_in(json.dumps({"a": 1}), "warnings").document == {"a": 1}
    assert answer_in("", "reading\nerror: no such file\n").problem == "no such file"
    assert answer_in("memory is predicted for chat only", "").problem == "memory is predicted for chat only"
    assert answer_in("", "").problem == "The command said nothing."
    assert problem_in("a\nerror: x is wrong:\n  line 3\n") == "x is wrong:\n  line 3"
