"""Every part that the table of kinds names is there, and a manifest's task is told from the others."""

from __future__ import annotations

import pytest

from ptune.kinds import DECODER, KINDS, Kind, imported, of_task


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_part_can_be_imported(kind: Kind) -> None:
    for part in (kind.model, kind.app, kind.publishable):
        assert callable(imported(part))


def test_manifests_of_format_1_keep_their_tasks() -> None:
    named = {kind.task: kind.name for kind in KINDS}
    assert named == {"chat": "decoder", "encoder": "encoder", "seq2seq": "seq2seq"}
    assert [of_task(task).name for task in named] == [*named.values()]


def test_an_unknown_task_is_left_to_the_decoder() -> None:
    """Its loader names the task that it does not know."""
    assert of_task("dreaming") is DECODER
