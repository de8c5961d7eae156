"""What an open or unused page costs."""

from __future__ import annotations

import asyncio

import pytest

gr = pytest.importorskip("gradio")


@pytest.mark.parametrize("slowed", [False, True], ids=["gradio's own", "ours"])
def test_an_idle_queue_is_looked_into_seldom(slowed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what gradio sleeps for, whatever the machine does meanwhile."""
    from ptune_serve.ui.idle import seldom

    slept: list[float] = []
    sleep = asyncio.sleep

    async def noted(delay: float) -> None:
        slept.append(delay)
        await sleep(0)

    with gr.Blocks() as page:
        gr.Textbox()
    page.queue()
    if slowed:
        seldom(page)

    async def idle() -> None:
        task = asyncio.create_task(page._queue.start_processing())
        while len(slept) < 20:
            await sleep(0)
        task.cancel()

    monkeypatch.setattr(asyncio, "sleep", noted)
    asyncio.run(idle())
    assert {*slept} == {0.02 if slowed else 0.001}
