"""The tabs of the page: gradio counts whatever stands between two of them as one, and then draws another tab twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from ptune.config.chat import Chat
from ptune.config.classification import TextClassification
from ptune.config.recipe import Recipe

gr = pytest.importorskip("gradio")


def test_labels_are_not_voted_on(tmp_path: Path) -> None:
    from ptune.studio.jobs.queue import Jobs
    from ptune.studio.judge.blind import Blind
    from ptune.studio.studio import Studio
    from ptune.studio.workspace import Workspace

    workspace = Workspace(tmp_path)
    for name, task in (("chat", Chat()), ("labels", TextClassification()), ("damaged", None)):
        workspace.run(name).mkdir()
        if task is not None:
            Recipe(task=task).save(workspace.run(name) / "recipe.yaml")
    with gr.Blocks() as page:
        blind = Blind(Studio(workspace, Jobs(workspace), page, gr.Tabs()), gr.Dropdown())
    assert [blind.writes(name) for name in ("chat", "labels", "damaged", "none")] == [
        True,
        False,
        False,
        False,
    ]
    (workspace.run("chat") / "evaluation.json").write_text('{"answers": []}')
    (workspace.run("labels") / "evaluation.json").write_text('{"answers": [{}]}')
    assert [blind.writes(name) for name in ("chat", "labels")] == [False, True], "what was evaluated decides"
    render, _, shown = blind.again
    box = render("chat", None)
    assert len(box) == len(shown)
    assert box[0]["visible"] is False


def test_a_servers_page_is_a_click_away() -> None:
    from ptune.studio.ship.start_server import serves

    html = serves("<talk>", "http://127.0.0.1:8000", "http://127.0.0.1:8001/?a=1&b=2")
    assert (
        'href="http://127.0.0.1:8001/?a=1&amp;b=2" target="_blank" rel="noopener">Open the page</a>' in html
    )
    assert "Serves &lt;talk&gt; at http://127.0.0.1:8000/v1" in html
    assert "<a" not in serves("talk", "http://127.0.0.1:8000", None)


def test_nothing_stands_between_the_tabs(tmp_path: Path) -> None:
    from ptune.studio.app import build
    from ptune.studio.workspace import Workspace

    page = build(Workspace(tmp_path))
    [tabs] = [block for block in page.blocks.values() if isinstance(block, gr.Tabs)]
    assert [type(child) for child in tabs.children] == [gr.Tab] * len(tabs.children)
    assert [child.label for child in tabs.children] == ["Data", "Recipe", "Run", "Judge", "Ship", "Serve"]


def test_what_listens_to_a_state_is_told_of_its_change(tmp_path: Path) -> None:
    """gradio tells of a changed state through its queue alone."""
    from ptune.studio.app import build
    from ptune.studio.workspace import Workspace

    page = build(Workspace(tmp_path))
    states = {number for number, block in page.blocks.items() if isinstance(block, gr.State)}
    heard = {number for fn in page.fns.values() for number, event in fn.targets if event == "change"} & states
    assert len(heard) >= 2
    untold = [fn.name for fn in page.fns.values() if not fn.queue and {one._id for one in fn.outputs} & heard]
    assert untold == []


def test_what_changes_the_draft_of_a_recipe_comes_in_turn(tmp_path: Path) -> None:
    """Two changes at once, each of the draft before them, would lose one of them."""
    from ptune.studio.app import build
    from ptune.studio.workspace import Workspace

    page = build(Workspace(tmp_path))
    [diff] = [one for one in page.blocks.values() if getattr(one, "elem_id", None) == "diff"]
    changing = [fn for fn in page.fns.values() if diff in fn.outputs]
    # loading, the tab, the way from Data, another recipe, name, preset, model and method
    assert len(changing) >= 8
    assert {(fn.concurrency_id, fn.concurrency_limit, fn.queue) for fn in changing} == {("draft", 1, True)}
