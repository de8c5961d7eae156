"""`x-request-timeout`: how long an answer may take."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support import encoder_bundles, fake_chat_model

from ptune.engine.decoder.request import NO_TOKEN, Request, Token
from ptune.engine.options import EngineOptions
from ptune.errors import UsageError
from ptune_serve import lifecycle

BODIES = {
    "/v1/chat/completions": {"model": "pirate", "messages": [{"role": "user", "content": "ahoy"}]},
    "/v1/completions": {"model": "base", "prompt": "ahoy"},
}


@pytest.mark.parametrize("path", BODIES)
def test_the_header_becomes_the_requests_deadline(served: Any, path: str) -> None:
    for headers, expected in (({}, None), ({"x-request-timeout": "2.5"}, 2.5)):
        assert served.http.post(path, json=BODIES[path], headers=headers).status_code == 200
        assert served.engine.requests[-1].deadline_s == expected


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("value", ["0", "-1", "soon", "nan", "inf", ""])
def test_what_is_no_time_is_refused(served: Any, path: str, value: str) -> None:
    answer = served.http.post(path, json=BODIES[path], headers={"x-request-timeout": value})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == ("x-request-timeout", "invalid_value")
    assert "must be seconds, above 0" in error["message"]
    assert not served.engine.requests


@pytest.mark.parametrize("path", BODIES)
def test_who_waited_too_long_gets_a_503(served: Any, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(request: Request, *_: object) -> Iterator[Token]:
        yield Token(NO_TOKEN, finish="error", error=f"{request.deadline_s} s passed", expired=True)

    monkeypatch.setattr(fake_chat_model, "_answer", late)
    answer = served.http.post(path, json=BODIES[path], headers={"x-request-timeout": "2.5"})
    assert answer.status_code == 503
    error = answer.json()["error"]
    assert (error["code"], error["message"]) == ("deadline_exceeded", "2.5 s passed")


def test_an_encoders_texts_are_never_cut() -> None:
    with pytest.raises(UsageError, match="leave out --step-ms"):
        lifecycle.serve(
            encoder_bundles.tiny().bundle.folder, port=0, ui=False, options=EngineOptions(step_ms=50)
        )
