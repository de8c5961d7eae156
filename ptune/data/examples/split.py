"""Makes one split: encodes, cuts and writes its rows, and counts the outcomes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from ptune.codecs.chat import ChatCodec
from ptune.config.chat import Chat
from ptune.config.preference import Preference
from ptune.config.unpaired_preference import UnpairedPreference
from ptune.data.examiner import Examiner
from ptune.data.examples.overlong import Policy, fit
from ptune.data.examples.store import Writer
from ptune.data.images.in_chats import Pictures
from ptune.data.shapes.conversations import Askable, Convertible, Document, Judged, Preferred
from ptune.data.shapes.judged import labels_of
from ptune.data.source import Sample
from ptune.errors import DataError, TemplateError

_MOST_TRAINING_CONVERSATIONS = 10_000  # candidates for examples in a prompt


@dataclass(frozen=True)
class Encoding:
    """The settings for encoding rows."""

    codec: ChatCodec
    task: Chat
    examiner: Examiner | None
    pictures: Pictures | None = None  # where images are kept; None if the model sees none

    @property
    def limit(self) -> int:
        """Longest example, in tokens: the recipe's, or the model's if that is shorter."""
        return min(self.task.max_length, self.codec.context or self.task.max_length)

    def seen(self, sample: Sample) -> Sample:
        """The row with its images in place. Raises: DataError for an image that cannot be used."""
        if self.pictures is None:
            return sample
        folder = Path(sample.problems.file).expanduser().parent
        return replace(sample, conversation=self.pictures.of(sample.conversation, folder))

    def policy(self, sample: Sample) -> Policy:
        """The policy for a row that is too long. Raw text is meant to be cut: "error" splits it, too."""
        is_document = isinstance(sample.conversation, Document)
        return "split" if is_document and self.task.on_overlong == "error" else self.task.on_overlong


@dataclass
class Split:
    """A split that is being written into a folder."""

    name: str
    writer: Writer
    encoding: Encoding
    rows: int = 0  # encoded or not
    overlong: int = 0
    left_out: int = 0  # rows without a remaining example
    refused: int = 0  # too long, if that is an error
    longest: tuple[int, str] = field(default=(0, ""))  # tokens and place of the longest refused row

    def __enter__(self) -> Split:
        self.writer.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.writer.__exit__(kind, error, trace)

    def add(self, sample: Sample) -> None:
        """Encodes and writes one row; one that cannot be encoded becomes a problem of its file."""
        self.rows += 1
        limit, policy = self.encoding.limit, self.encoding.policy(sample)
        try:
            sample = self.encoding.seen(sample)
            examples = sample.conversation.examples(self.encoding.codec, self.encoding.task.train_on)
        except (TemplateError, DataError) as error:
            sample.problems.add(sample.number, str(error))
            return
        if self.encoding.examiner is not None:
            for example in examples:
                self.encoding.examiner.sample(self.name, sample, example)
        longest = max(map(len, examples))
        too_long = longest > limit
        self.overlong += too_long
        if too_long and policy == "error":
            self.refused += 1
            self.longest = max(self.longest, (longest, sample.place), key=lambda found: found[0])
        judged = isinstance(self.encoding.task, UnpairedPreference)
        labels = labels_of(sample.conversation) if judged else (None,) * len(examples)
        weight = sample.weight if self.name == "train" else 1.0  # held-out figures can be compared
        pieces = [
            (piece, label)
            for example, label in zip(examples, labels, strict=True)
            for piece in fit(replace(example, weight=weight), limit, policy)
        ]
        is_pair = isinstance(self.encoding.task, Preference)
        if is_pair and (too_long or len(pieces) < len(examples)):
            pieces = []  # an answer without the other is no pair
        self.left_out += not pieces
        for piece, label in pieces:
            self.writer.add(piece, label)
        told = _told(sample.conversation)
        if pieces and not too_long and told is not None and self._has_room:
            self.writer.add_conversation(told)

    @property
    def _has_room(self) -> bool:
        return self.name != "train" or self.writer.conversations < _MOST_TRAINING_CONVERSATIONS

    def check(self) -> None:
        """Raises: DataError if the split has rows but no examples."""
        if not self.rows or self.writer.examples:
            return
        limit, task = self.encoding.limit, self.encoding.task
        if self.overlong == self.rows:
            why = f"all are longer than {limit} tokens ({task.on_overlong})"
        else:
            why = "none has a target that follows something, so there is nothing to learn"
        raise DataError(f"no {self.name} example is left: {why}")

    def described(self) -> dict[str, Any]:
        """The split for data.json; `sha256` is over the tokens and targets."""
        return {
            "rows": self.rows,
            "examples": self.writer.examples,
            "tokens": self.writer.tokens,
            "targets": self.writer.targets,
            "overlong": self.overlong,
            "left_out": self.left_out,
            "sha256": self.writer.sha256,
        }


def _told(conversation: Convertible) -> Askable | None:
    """What asks and answers as it should; None if nothing does."""
    if isinstance(conversation, Preferred):
        return conversation.chosen
    if isinstance(conversation, Judged):
        return conversation.answered if conversation.desirable else None
    return None if isinstance(conversation, Document) else conversation


def refuse_overlong(splits: list[Split]) -> None:
    """Raises: DataError with counts if rows are too long and the recipe has no policy for them."""
    refused = sum(split.refused for split in splits)
    if refused:
        whole = isinstance(splits[0].encoding.task, Preference | UnpairedPreference)
        choice = "drop" if whole else "truncate, drop or split"
        length, place = max((split.longest for split in splits), key=lambda found: found[0])
        vision = splits[0].encoding.codec.vision
        images = "" if vision is None else f"; an image takes {vision.most_written}"
        raise DataError(
            f"{refused} of {sum(split.rows for split in splits)} examples are longer than {splits[0].encoding.limit} tokens"
            f" (longest {length}, {place}{images}); use --task.on-overlong {choice},"
            " or raise --task.max-length up to the model's context"
        )
