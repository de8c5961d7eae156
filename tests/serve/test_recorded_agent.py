"""What an agent really sent, posted again: clients/agent.jsonl, a line for each request.

Recorded between pydantic-ai and a server: the same three questions with two tools, over chat completions, responses and
messages; the second question was answered with two calls at once, the third answer is a stream.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

RECORDED = [
    json.loads(line)
    for line in (Path(__file__).parent / "clients" / "agent.jsonl").read_text(encoding="utf-8").splitlines()
]
PATHS = ("/v1/chat/completions", "/v1/responses", "/v1/messages")
RESULT = "<tool>"


def prompts_of(served: Any, path: str) -> list[str]:
    """What the model reads at each request to this path."""
    served.engine.context = 4096
    for sent in (sent for sent in RECORDED if sent["path"] == path):
        response = served.http.post(path, json=sent["body"])
        assert response.status_code == 200, response.text
        assert response.headers["content-type"].startswith(
            "text/event-stream" if sent["body"].get("stream") else "application/json"
        )
    return [bytes(request.prompt).decode() for request in served.engine.requests]


@pytest.mark.parametrize("path", PATHS)
def test_each_prompt_goes_on_from_the_one_before(served: Any, path: str) -> None:
    """So what the model has read of a conversation is read once, however long it becomes."""
    prompts = prompts_of(served, path)
    assert len(prompts) == 5
    for before, after in pairwise(prompts):
        assert after.startswith(before + "<assistant>")


def test_it_reads_the_same_over_every_api(served: Any) -> None:
    """But for a list of files, which the client itself writes as JSON for OpenAI and as blocks of text for Anthropic."""
    by_chat = prompts_of(served, PATHS[0])[-1]
    served.engine.requests.clear()
    by_responses = prompts_of(served, PATHS[1])[-1]
    served.engine.requests.clear()
    by_messages = prompts_of(served, PATHS[2])[-1]
    assert by_chat == by_responses
    assert by_messages.replace("main.py\nREADME.md", '["main.py","README.md"]') == by_chat
    assert by_chat.count(RESULT) > 3
    assert by_chat.endswith("<user>Thank you!")
