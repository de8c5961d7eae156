"""The table of an export while it runs and after it: every hop, in the command's words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ptune.formats.bundle import Hop
from ptune.formats.hop_log import Followed, hop_log, note_hops, note_stage
from ptune.studio.jobs.log import last_error
from ptune.studio.jobs.queue import Job
from ptune.studio.ship.proof import followed, hop_log_of, state, table
from ptune.studio.ship.proof import told as in_words

GRAPH = Hop(
    name="torch → ONNX base", prompts=16, positions=16, max_abs_logprob=1.234e-5, limit="≤ 0.001", passed=True
)
DEAD = Hop(
    name="(adapter − base)", prompts=16, positions=16, limit="≤ 0.01", passed=False, note="it is <dead>"
)
OWN = Hop(name="own", prompts=7, positions=7, top1=0.995, limit="≥ 99%", passed=False, form="attention")


def job(status: str, log: Path | None = None, **fields: Any) -> Job:
    words = ["ptune", "export", "runs/mine", *(("--hop-log", str(log)) if log else ())]
    return Job("00001", "export", "mine", tuple(words), status, 0.0, **fields)  # type: ignore[arg-type]


def test_every_hop_stands_in_the_table_and_the_base_first() -> None:
    html = table({"mine": (DEAD, OWN), "base": (GRAPH,)}, "The proof")
    assert html.index("torch → ONNX base") < html.index("(adapter − base)") < html.index(">own<")
    assert "1.2e-05" in html
    assert "99.5%" in html
    assert "it is &lt;dead&gt;" in html
    assert html.count("<tbody>") == 1
    assert html.count("<tr>") == 4
    for told in (">ok<", ">DRIFTS<", ">not used<"):
        assert html.count(told) == 1
    assert table({}, "The proof") == ""


def test_a_sentence_says_what_the_table_means() -> None:
    served = Hop(
        name="engine → server", prompts=16, positions=16, max_abs_logprob=7.2e-5,
        limit="same labels, max |Δ log p| ≤ 0.001", passed=True,
    )  # fmt: skip
    hidden = Hop(
        name="ONNX → engine", prompts=16, positions=16, max_abs_logprob=0.5,
        limit="max |Δ| of hidden states ≤ 0.001 of the largest", passed=True,
    )  # fmt: skip
    said = in_words({"base": (GRAPH, hidden), "mine": (served, OWN)})
    assert "the same answers as the trained one: the largest difference is 7e-5 (limit 1e-3)." in said
    assert "bad" in in_words({"mine": (served, DEAD)})
    assert "Beyond the limit: (adapter − base)." in in_words({"mine": (served, DEAD)})
    assert "same" not in in_words({"mine": (served, DEAD)})
    assert "every hop is within its limit" in in_words({"base": (hidden,)})
    assert in_words({}) == ""
    assert '<th scope="col" class="figure">inputs</th>' in table({"mine": (served,)}, "The proof", "inputs")


def test_a_refusal_names_the_pages_own_checkbox() -> None:
    why = "error: runs/mine is no better than chance. Train it longer, or export it --anyway"
    said = state(job("failed"), Followed(), why)
    assert "the box “Even if no better than a baseline”" in said
    assert "20 steps" in said
    assert "box" not in state(job("failed"), Followed(), "error: no space left")


def test_the_log_of_the_job_is_followed(tmp_path: Path) -> None:
    log = hop_log_of(tmp_path / ".studio", "mine", gguf=False)
    with hop_log(log):
        note_stage("the ONNX graph")
        note_hops("base", [GRAPH])
        relative = log.relative_to(tmp_path)
        running = followed(job("running", relative), tmp_path)
        assert running == Followed(("the ONNX graph",), {"base": (GRAPH,)})
        assert followed(job("waiting", relative), tmp_path) == Followed(), (
            "what is there is of an export before"
        )
    assert followed(job("done"), tmp_path) == Followed()
    assert hop_log_of(tmp_path, "mine", gguf=True) != hop_log_of(tmp_path, "mine", gguf=False)


@pytest.mark.parametrize(
    ("status", "log", "told"),
    [
        ("waiting", "", "Waiting"),
        ("running", "", "Now: the engine · 1 hop measured"),
        ("done", "", "1 hop measured, none beyond"),
        ("stopped", "", "Export again"),
        (
            "failed",
            "  the engine\nerror: bundles/mine exists already: choose another --out\n",
            "exists already: choose",
        ),
        ("failed", "", "killed"),
    ],
)
def test_where_an_export_is_in_words(status: str, log: str, told: str) -> None:
    assert told in state(job(status), Followed(("the engine",), {"base": (GRAPH,)}), log)


def test_the_error_is_the_commands_own() -> None:
    assert last_error("loading\nerror: no run at x: make one\nnext\n") == "no run at x: make one"
    assert last_error("Killed\n\n") == "Killed"
