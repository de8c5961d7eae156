"""Beam search over HTTP: the fields reach the engine, and what makes no sense with them is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from support.serve_streams import chunks_of, whole_of

from ptune.engine.decoder.request import Beams


def test_the_fields_reach_the_engine(served: Any) -> None:
    fields = {"num_beams": 4, "length_penalty": 0.5, "early_stopping": "never"}
    served.chat("ahoy", **fields).raise_for_status()
    served.complete(
        "ahoy", num_beams=3, length_penalty=2, temperature=0, early_stopping=True
    ).raise_for_status()
    served.chat("ahoy", num_beams=1, temperature=0.5).raise_for_status()
    beams = [request.beams for request in served.engine.requests]
    assert beams == [Beams(4, 0.5, "never"), Beams(3, 2.0, True), None]
    assert [request.sampling.temperature for request in served.engine.requests] == [0, 0, 0.5]


def test_a_stream_has_the_same_text(served: Any) -> None:
    whole = served.chat("ahoy", num_beams=2).json()["choices"][0]["message"]["content"]
    [streamed] = whole_of(chunks_of(served.chat("ahoy", num_beams=2, stream=True)))
    assert streamed["message"]["content"] == whole


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("temperature", {"temperature": 1.0}),
        ("top_p", {"top_p": 0.9}),
        ("frequency_penalty", {"frequency_penalty": 0.5}),
        ("logit_bias", {"logit_bias": {"1": 1}}),
        ("n", {"n": 2}),
        ("num_beams", {"response_format": {"type": "json_object"}}),
        ("num_beams", {"num_beams": 129}),
        ("num_beams", {"num_beams": 0}),
        ("length_penalty", {"length_penalty": 11}),
        ("length_penalty", {"num_beams": 1, "length_penalty": 2}),
        ("early_stopping", {"num_beams": 1, "early_stopping": True}),
        ("early_stopping", {"early_stopping": "always"}),
        ("use_beam_search", {"use_beam_search": True}),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(served: Any, param: str, fields: dict[str, Any]) -> None:
    for response in (
        served.chat("x", **{"num_beams": 2, **fields}),
        served.complete("x", **{"num_beams": 2, **fields}),
    ):
        assert response.status_code == 400, response.text
        error = response.json()["error"]
        assert error["param"].split(".")[0] == param
        assert "num_beams" in error["message"] or param in error["message"]
    assert not served.engine.requests


def test_log_probabilities_are_refused(served: Any) -> None:
    for response in (
        served.chat("x", num_beams=2, logprobs=True),
        served.complete("x", num_beams=2, logprobs=1),
    ):
        assert (response.status_code, response.json()["error"]["param"]) == (400, "logprobs")
        assert "is not available with num_beams" in response.json()["error"]["message"]
