"""Every row of the table of tasks names code that is there, and endpoints that its routers have."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ptune.config.task_spec import TaskSpec
from ptune.config.tasks import SPECS, TASKS, Task, endpoints_of, task_of, tasks_of
from ptune.errors import FormatError
from ptune.kinds import imported

CODE = ("work", "doctor", "evaluate", "evaluate_bundle", "held_out", "ask")


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.recipe_name)
def test_all_that_a_row_names_is_there(task: Task) -> None:
    assert issubclass(imported(task.spec), TaskSpec)
    for column in CODE:
        place = getattr(task, column)
        assert not place or callable(imported(place)), column
    paths = {route.path for router in task.routers for route in imported(router).routes}
    assert set(task.endpoints) <= paths
    assert task.tab
    assert task.held_out or task.kind == "decoder", "an encoder's export is proved at held-out inputs"


def test_rows_are_found_by_recipe_and_by_adapter() -> None:
    assert [task_of(spec()) for spec in SPECS] == list(TASKS)
    assert len({task.recipe_name for task in TASKS}) == len(TASKS)
    assert [task.recipe_name for task in tasks_of("feature-extraction")] == ["Embedding", "Recommendation"]
    with pytest.raises(
        FormatError, match="'nothing', which this ptune does not have; it has chat, text-class"
    ):
        tasks_of("nothing")
    assert endpoints_of("feature-extraction") == ("/v1/embeddings", "/v1/rerank", "/v1/recommend")
    assert endpoints_of("image-classification") == ("/v1/classify",)


def test_reading_the_table_imports_no_task() -> None:
    asked = "import sys, ptune.config.recipe; print(*[name for name in sys.modules if name.startswith(('ptune.tasks', 'torch', 'ptune.evaluation'))])"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
