"""A blind vote: whose answers are better? Which side stands left is drawn by a seed that is stored, and nobody is told.

RUN/votes/base.jsonl (the run against its base) or RUN/votes/run-NAME.jsonl (against another run):

    {"format": 1, "seed": 2754, "sides": ["base", "mine"]}
    {"key": "81f0…", "prompt": "Define: Patience", "left": "mine", "vote": "left"}

A vote belongs to a prompt and the two answers that were seen (`key`), so it counts as long as these stay the same, after a
reload, another evaluation or on another machine. The file is written whole at each vote.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from ptune.errors import FormatError
from ptune.evaluation.binomial import interval, p_value
from ptune.formats.run import Run
from ptune.formats.whole_write import read_json, read_json_lines, write_text

FORMAT = 1
BASE = "base"
Vote: TypeAlias = Literal["left", "right", "both", "neither"]
VOTES: tuple[Vote, ...] = get_args(Vote)


class NoAnswersError(FormatError):
    """An evaluation of a model that generates no text."""


@dataclass(frozen=True)
class Pair:
    """A held-out prompt and what the two sides answer to it, in the order of the sides."""

    prompt: str
    answers: tuple[str, str]

    @property
    def key(self) -> str:
        """Names the prompt with these answers."""
        text = json.dumps([self.prompt, *self.answers], ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:24]


@dataclass(frozen=True)
class Shown:
    """A pair as a voter sees it. sides: which side stands left and which right, 0 or 1; they are not told."""

    pair: Pair
    sides: tuple[int, int]

    @property
    def left(self) -> str:
        return self.pair.answers[self.sides[0]]

    @property
    def right(self) -> str:
        return self.pair.answers[self.sides[1]]


@dataclass(frozen=True)
class Tally:
    """The votes so far. won: of each side; share: of the votes for one of the two that went to the second side."""

    sides: tuple[str, str]
    won: tuple[int, int]
    both: int
    neither: int
    left: int  # pairs that nobody has voted on
    same: int  # pairs whose answers are equal, which are not asked

    @property
    def decided(self) -> int:
        return sum(self.won)

    @property
    def voted(self) -> int:
        return self.decided + self.both + self.neither

    @property
    def share(self) -> float | None:
        return self.won[1] / self.decided if self.decided else None

    @property
    def interval(self) -> tuple[float, float]:
        """The exact 95 % interval of the share."""
        return interval(self.won[1], self.decided)

    def told(self) -> str:
        """A sentence or two."""
        one, other = self.sides
        counted = f"{self.voted} votes: {other} {self.won[1]}, {one} {self.won[0]}, both {self.both}, neither {self.neither}"
        if self.share is None:
            return f"{counted}."
        low, high = self.interval
        verdict = "no difference to be seen yet"
        if low > 0.5 or high < 0.5:
            verdict = f"{other if low > 0.5 else one} is better by more than luck"
        return (
            f"{counted}. {other} wins {self.share:.0%} [{low:.0%}, {high:.0%}] of those that were decided, "
            f"p = {p_value(self.won[1], self.decided):.2g}: {verdict}."
        )


@dataclass(frozen=True)
class Ballot:
    """The votes on two sides' answers. votes: (key, prompt, which side stood left, vote), the oldest first."""

    path: Path
    sides: tuple[str, str]
    seed: int
    pairs: tuple[Pair, ...]
    votes: tuple[tuple[str, str, int, Vote], ...] = ()

    @classmethod
    def open(cls, path: Path, sides: tuple[str, str], pairs: Sequence[Pair]) -> Ballot:
        """The votes of a file, or a new ballot with a seed of its own, which is written at once.

        Raises: FormatError if the file is damaged or of other sides; PtuneError if it cannot be written.
        """
        ballot = cls(path, sides, secrets.randbelow(2**31), tuple(dict.fromkeys(pairs)))
        if not path.exists():
            ballot._write()
            return ballot
        return ballot._read()

    def voted(self) -> set[str]:
        """The keys of pairs that have a vote."""
        return {key for key, *_ in self.votes}

    def next(self) -> Shown | None:
        """The next pair to vote on, in the order that the seed draws; None if none is left."""
        done = self.voted()
        waiting = [pair for pair in self.pairs if pair.key not in done and pair.answers[0] != pair.answers[1]]
        if not waiting:
            return None
        pair = min(waiting, key=lambda one: _drawn(f"{self.seed} when {one.key}"))
        return Shown(pair, (0, 1) if self._first_left(pair.key) else (1, 0))

    def cast(self, key: str, vote: str) -> Ballot:
        """Counts a vote and writes it. A second vote on a pair, as of another window, replaces the first.

        Raises: FormatError for what is no vote, or a pair that is not here; PtuneError if it cannot be written.
        """
        pair = next((one for one in self.pairs if one.key == key), None)
        if vote not in VOTES or pair is None:
            raise FormatError(f"{vote!r} on {key!r} is no vote here: take one of {', '.join(VOTES)}")
        found = self._read()  # of another window
        others = tuple(one for one in found.votes if one[0] != key)
        left = 0 if self._first_left(key) else 1
        return found._with(*others, (key, pair.prompt, left, vote))

    def take_back(self) -> Ballot:
        """Without the newest vote; the same if there is none."""
        found = self._read()
        return found._with(*found.votes[:-1])

    def tally(self) -> Tally:
        """Counts the votes on pairs that are there."""
        here = {pair.key for pair in self.pairs}
        counted = Counter[str]()
        for key, _, left, vote in self.votes:
            if key in here:
                for_side = {"left": left, "right": 1 - left}
                counted[f"side {for_side[vote]}" if vote in for_side else vote] += 1
        same = sum(pair.answers[0] == pair.answers[1] for pair in self.pairs)
        asked = {pair.key for pair in self.pairs if pair.answers[0] != pair.answers[1]}
        return Tally(
            self.sides,
            (counted["side 0"], counted["side 1"]),
            counted["both"],
            counted["neither"],
            len(asked - self.voted()),
            same,
        )

    def _first_left(self, key: str) -> bool:
        return _drawn(f"{self.seed} left {key}")[0] < 128

    def _with(self, *votes: tuple[str, str, int, Vote]) -> Ballot:
        changed = replace(self, votes=votes)
        changed._write()
        return changed

    def _write(self) -> None:
        lines: list[dict[str, Any]] = [{"format": FORMAT, "seed": self.seed, "sides": list(self.sides)}]
        lines += [
            {"key": key, "prompt": prompt, "left": self.sides[left], "vote": vote}
            for key, prompt, left, vote in self.votes
        ]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in lines))

    def _read(self) -> Ballot:
        try:
            head, *lines = read_json_lines(self.path)
            sides, seed = (str(head["sides"][0]), str(head["sides"][1])), int(head["seed"])
            votes = tuple(
                (str(line["key"]), str(line["prompt"]), sides.index(line["left"]), _vote(line["vote"]))
                for line in lines
            )
            damaged = head["format"] != FORMAT
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise FormatError(f"{self.path} is damaged: {error}; move it away to vote anew") from None
        if damaged or sides != self.sides:
            raise FormatError(
                f"{self.path} holds other votes, of {' and '.join(sides)}: move it away to vote anew"
            )
        return replace(self, seed=seed, votes=votes)


def _drawn(text: str) -> bytes:
    """Evenly distributed over texts, and on every machine the same."""
    return hashlib.sha256(text.encode()).digest()


def _vote(value: Any) -> Vote:
    if value not in VOTES:
        raise ValueError(f"{value!r} is no vote")
    vote: Vote = value
    return vote


def against_base(run: Run) -> tuple[tuple[str, str], list[Pair], Path]:
    """The sides, pairs and votes of a run and its base, before and after training.

    Raises: FormatError if the run has not been evaluated, or its evaluation holds no answers.
    """
    pairs = [Pair(prompt, both) for prompt, both in answers(run).items()]
    name = _name(run)
    own = name if name != BASE else f"the run {name}"  # two sides of one name could not be told apart again
    return (BASE, own), pairs, run.folder / "votes" / "base.jsonl"


def against_run(run: Run, other: Run) -> tuple[tuple[str, str], list[Pair], Path]:
    """The same of two runs: what each has learnt to answer to the prompts that both were asked.

    Raises: FormatError as `against_base`, or if they have no prompt in common.
    """
    here, there = answers(run), answers(other)
    pairs = [Pair(one, (there[one][1], here[one][1])) for one in here if one in there]
    if not pairs:
        raise FormatError(
            f"{run.folder} and {other.folder} were asked no prompt in common: evaluate both on the same data"
        )
    return (_name(other), _name(run)), pairs, run.folder / "votes" / f"run-{_name(other)}.jsonl"


def answers(run: Run) -> dict[str, tuple[str, str]]:
    """Held-out prompts, and what base and tuned model answered to each. Raises: FormatError."""
    if not run.evaluation_path.is_file():
        raise FormatError(
            f"{run.folder} has not been evaluated: `ptune evaluate {run.folder}` asks both models"
        )
    found = read_json(run.evaluation_path).get("answers") or []
    if not found:
        raise NoAnswersError(
            f"the evaluation of {run.folder} holds no answers: only generated text is voted on"
        )
    return {str(one["prompt"]): (str(one["base"]), str(one["adapter"])) for one in found}


def _name(run: Run) -> str:
    return run.folder.resolve().name
