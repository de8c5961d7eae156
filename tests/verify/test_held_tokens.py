"""The text that a decoder's profiles are compared on says where it is from, and whether the run's own is English."""

from __future__ import annotations

import pytest

from ptune.verify.decoder.held_tokens import HeldTokens, is_english

ENGLISH = "The wind had risen, and the ships that lay in the harbour were not going to sail for days. "
GERMAN = "Der Wind hatte zugenommen, und die Schiffe im Hafen sollten noch tagelang nicht auslaufen. "
JAPANESE = "風が強くなり、港に停泊していた船は何日も出航しないことになった。"
SYSTEM = "system You are a helpful assistant. user "


@pytest.mark.parametrize(
    ("text", "english"),
    [
        (ENGLISH * 5, True),
        (GERMAN * 5, False),
        ((SYSTEM + ENGLISH) * 5, True),
        ((SYSTEM + GERMAN) * 5, False),
        (JAPANESE, False),
        (GERMAN, True),  # too short to judge by its words
        ("", True),
    ],
)
def test_text_that_is_plainly_not_english(text: str, english: bool) -> None:
    assert is_english(text) == english


@pytest.mark.parametrize(
    ("own", "english", "told"),
    [
        (8, False, "all text is the run's own"),
        (4, True, "50% of the text is the run's own, the rest an English sample"),
        (4, False, "50% of the text is the run's own, the rest an English sample, though the run's own is not English"),
        (0, True, "0% of the text is the run's own, the rest an English sample"),
    ],
)  # fmt: skip
def test_the_origin_says_whether_the_sample_is_in_another_language(
    own: int, english: bool, told: str
) -> None:
    assert HeldTokens(((1,) * 8,), own, english).origin == told
