"""A question to a run's model, and what each side says to it. Torch-free: the page that asks reads it, too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from ptune.config.task_spec import TaskSpec
from ptune.config.tasks import task_of
from ptune.errors import UsageError

Side: TypeAlias = Literal["base", "tuned"]
SIDES: tuple[Side, ...] = ("base", "tuned")
MOST_TOKENS, LONGEST_S, MOST_CHARACTERS, MOST_OTHERS = 2048, 600.0, 50_000, 100


@dataclass(frozen=True)
class Question:
    """What is asked. Which fields a task needs, its row in `ptune.config.tasks` says.

    text: a prompt, or what is to be labelled, tagged, translated or embedded. others: texts that are compared with it.
    max_tokens and max_s bound what each side writes.
    """

    text: str = ""
    others: tuple[str, ...] = ()
    image: Path | None = None
    max_tokens: int = 256
    max_s: float = 60.0

    def checked(self, needed: tuple[str, ...]) -> Question:
        """The question. Raises: UsageError if it lacks what is needed, has what is not, or is beyond a limit."""
        given = {
            "text": bool(self.text.strip()),
            "others": bool(self.others),
            "image": self.image is not None,
        }
        for name, there in given.items():
            if there != (name in needed):
                raise UsageError(_WRONG[name][there])
        for name, value, most in (
            ("--max-tokens", self.max_tokens, MOST_TOKENS),
            ("--max-s", self.max_s, LONGEST_S),
        ):
            if not 0 < value <= most:
                raise UsageError(f"{name} is {value:g}: it must be above 0, and {most:g} at the most")
        if sum(map(len, (self.text, *self.others))) > MOST_CHARACTERS or len(self.others) > MOST_OTHERS:
            raise UsageError(
                f"that is too much to ask at once: {MOST_CHARACTERS:,} characters and {MOST_OTHERS} texts to compare are the most"
            )
        return self

    def described(self) -> dict[str, Any]:
        """In JSON types."""
        return {**asdict(self), "image": None if self.image is None else str(self.image)}

    @classmethod
    def of_description(cls, value: Any) -> Question:
        """The question of a JSON object as `described` makes it. Raises: UsageError for anything else."""
        try:
            image = value.get("image")
            return cls(
                str(value.get("text") or ""),
                tuple(map(str, value.get("others") or ())),
                None if image is None else Path(image),
                int(value.get("max_tokens", cls.max_tokens)),
                float(value.get("max_s", cls.max_s)),
            )
        except (AttributeError, TypeError, ValueError):
            raise UsageError(
                'a question is a JSON object such as {"text": "Define: Patience", "max_tokens": 64}'
            ) from None


_WRONG = {
    "text": ("there is nothing to ask: write a text", "this model is asked about an image, not a text"),
    "others": (
        "this model compares a text with others: name some with --other TEXT",
        "this model is asked about one text: leave out --other",
    ),
    "image": (
        "this model is asked about an image: name its file with --image FILE",
        "this model is asked about a text, not an image",
    ),
}
"""What to say where a field is missing, and where it is there and should not be."""


@dataclass(frozen=True)
class Mark:
    """A span of the text that was tagged: characters begin <= i < end."""

    begin: int
    end: int
    label: str
    score: float


@dataclass(frozen=True)
class Said:
    """What one side says: a text; or numbers by name, the highest first; or marks in the text that was asked about.

    numbers: whether the scores are what a regressor predicts, in the unit of its data, and no shares. note: a sentence on
    what was cut, or why there is no answer.
    """

    text: str | None = None
    scores: Mapping[str, float] | None = None
    numbers: bool = False
    marks: tuple[Mark, ...] | None = None
    note: str = ""

    def described(self) -> dict[str, Any]:
        """In JSON types, without what there is not."""
        nothing = asdict(Said())
        return {name: value for name, value in asdict(self).items() if value != nothing[name]}


class Asker(Protocol):
    """A run's model, loaded. It can be asked again and again."""

    def __call__(self, side: Side, question: Question) -> Said:
        """What a side says. Raises: PtuneError for what cannot be answered."""


def needs(task: TaskSpec) -> tuple[str, ...]:
    """The fields of a question that a recipe's task needs. Raises: UsageError if it cannot be asked."""
    row = task_of(task)
    if not row.ask:
        raise UsageError(
            f"a {row.recipe_name} model is not asked from its run: export and serve it, and ask {row.endpoints[-1]}"
        )
    return row.asked
