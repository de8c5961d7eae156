"""A run and a bundle of format 1, made by version 0.1.0: every later version must open them."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from ptune.codecs.chat import ChatCodec
from ptune.config.recipe import Recipe
from ptune.formats.run import Run
from ptune.tasks.chat.infer import load

FIXTURES = Path(__file__).parents[1] / "fixtures"


def test_the_run_opens() -> None:
    run = Run.open(FIXTURES / "run-1")
    record = run.record()
    assert (record.format, record.status, record.steps) == (1, "finished", 3)
    assert Recipe.load(run.recipe_path).method.model_dump()["r"] == 2
    assert ChatCodec.open(run.codec_path).encode_text("Patience")


def test_the_bundle_answers_as_it_did() -> None:
    """Opening replays its golden vectors, within their tolerance on any machine."""
    with closing(load(FIXTURES / "bundle-1", threads=1)) as model:
        assert model.engine.adapters == ["tuned"]
        answer = model.chat(
            [{"role": "user", "content": "Define: Patience"}], adapter="tuned", max_tokens=4, temperature=0
        )
        assert answer.usage.completion_tokens > 0
