"""What every tab of the studio is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ptune.studio.jobs.queue import Jobs
from ptune.studio.workspace import Workspace

if TYPE_CHECKING:
    import gradio as gr

QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
"""Options of the events of all tabs: nothing flickers while they run, and no API names them."""


@dataclass(frozen=True)
class Studio:
    """The workspace, its jobs, and the page that is being built.

    page: `page.load` is where a tab reads the files for a page that was opened or loaded again.
    tabs: whose `selected` leads to another tab.
    """

    workspace: Workspace
    jobs: Jobs
    page: gr.Blocks
    tabs: gr.Tabs
