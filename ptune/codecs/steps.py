"""The rule that splits an answer into steps, in training's data and in what is served."""

from __future__ import annotations


def split(answer: str, separator: str) -> list[tuple[int, int]]:
    """The spans of an answer's steps: what stands between the separators, unless it is blank."""
    spans, begin = [], 0
    for part in answer.split(separator):
        if part.strip():
            spans.append((begin, begin + len(part)))
        begin += len(part) + len(separator)
    return spans
