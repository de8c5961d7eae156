"""The chat page's client against the server, without a page."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from support.fake_chat_model import wait_until

from ptune_serve.http.listen import listen, url_of
from ptune_serve.ui.answer import SamplingControls, ServerError, StreamedAnswer
from ptune_serve.ui.client import Client, ServedModels

HELLO = [{"role": "user", "content": "ahoy <b>☠</b>"}]


async def collect(answers):
    return [answer async for answer in answers]


def test_what_is_served(served):
    found = asyncio.run(Client(served.url).served())
    assert found == ServedModels(
        bundle="dictionary", source="llm_tiny", adapters=("pirate", "devil"), context=512
    )
    assert asyncio.run(Client(served.url + "/v1/").served()) == found


def test_an_answer_grows(served):
    served.engine.delay_s = 0.001
    answers = asyncio.run(collect(Client(served.url).answer("pirate", HELLO, SamplingControls())))
    texts = [answer.text for answer in answers]
    assert all(later.startswith(earlier) for earlier, later in pairwise(texts))
    last = answers[-1]
    assert (last.text, last.finish, last.error) == ("pirate heard: ahoy <b>☠</b>", "stop", None)
    assert last.tokens == len(last.text.encode()) + 1
    assert last.first_token_s is not None
    assert last.tokens_per_s is not None
    assert last.first_token_s < last.seconds


def test_a_rate_needs_two_tokens():
    assert StreamedAnswer().tokens_per_s is None
    assert StreamedAnswer(tokens=1, first_token_s=0.5, seconds=0.5).tokens_per_s is None
    assert StreamedAnswer(tokens=11, first_token_s=0.5, seconds=1.5).tokens_per_s == 10


def test_the_controls_reach_the_server(served):
    asyncio.run(
        collect(Client(served.url).answer("base", HELLO, SamplingControls(0.3, 0.8, max_tokens=5, seed=7)))
    )
    request = served.engine.requests[-1]
    assert (request.sampling.temperature, request.sampling.top_p, request.sampling.seed) == (0.3, 0.8, 7)
    assert request.max_tokens == 5


def test_two_models_answer_at_the_same_time(served):
    served.engine.delay_s = 0.005
    both = asyncio.run(
        collect(Client(served.url).answers(["base", "devil"], [HELLO, HELLO], SamplingControls()))
    )
    assert [answer.text for answer in both[-1]] == [
        f"{name} heard: ahoy <b>☠</b>" for name in ("base", "devil")
    ]
    assert any(all(answer.text and answer.finish is None for answer in pair) for pair in both)


def test_one_of_two_may_fail(served):
    answers = asyncio.run(
        collect(Client(served.url).answers(["base", "gone"], [HELLO, HELLO], SamplingControls()))
    )
    base, gone = answers[-1]
    assert base.finish == "stop"
    assert gone.error is not None
    assert "no model 'gone'" in gone.error


def test_giving_up_cancels_on_the_server(served):
    served.engine.may_end = 0

    async def read_a_little():
        answers = Client(served.url).answers(["base", "devil"], [HELLO, HELLO], SamplingControls())
        async for both in answers:
            if all(answer.text for answer in both):
                break
        await answers.aclose()
        await asyncio.to_thread(wait_until, lambda: len(served.engine.cancelled) == 2)

    asyncio.run(read_a_little())


def test_a_server_that_is_away_is_told_in_words():
    with listen("127.0.0.1", 0) as listener:
        url = url_of(listener)
    with pytest.raises(ServerError, match="does not answer"):
        asyncio.run(Client(url).served())
    [answer] = asyncio.run(collect(Client(url).answer("base", HELLO, SamplingControls())))
    assert answer.error is not None
    assert "ptune serve" in answer.error


def test_a_failure_midway_keeps_what_was_said(served):
    served.engine.failure = "step"
    *_, last = asyncio.run(collect(Client(served.url).answer("base", HELLO, SamplingControls())))
    assert last.text == "ba"
    assert last.error is not None
    assert "gave up" in last.error
