"""What an error says, in whichever API's form it comes."""

from __future__ import annotations

from typing import Any


def said(body: Any) -> str:
    """The sentence of an error object. Fails for what is none of the forms."""
    error = body["error"]
    if isinstance(error, str):
        assert set(body) == {"error"}  # Ollama's
        return error
    if "type" in body:
        assert (set(body), set(error), body["type"]) == ({"type", "error"}, {"type", "message"}, "error")
    else:
        assert (set(body), set(error)) == ({"error"}, {"message", "type", "param", "code"})
    message: str = error["message"]
    return message
