"""Every rule finds its planted defect, by file and line, and nothing else; clean sets are found clean.

The files: defects/RULE.LINE.jsonl for a defect in that line; RULE.train.jsonl and RULE.test.LINE.jsonl where it takes
two sets; RULE.jinja where the defect is the chat template's. What is not given is clean.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.findings import place_of
from support.tiny_tokenizers import tokenizer

from ptune.codecs.chat import ChatCodec, Example
from ptune.config.chat import Chat
from ptune.config.recipe import Data
from ptune.doctor.doctor import RULES
from ptune.doctor.examination import Examination, examine

DEFECTS = Path(__file__).parent / "defects"
SAMPLES = ("sample:devils_dictionary.train", "sample:devils_dictionary.test")


class Endless(ChatCodec):
    """A codec that forgets to end answers, which ptune's own never does."""

    def encode_examples(self, *arguments: Any, **options: Any) -> list[Example]:
        whole = super().encode_examples(*arguments, **options)
        return [Example(example.ids[:-2], example.targets[:-2]) for example in whole]

    def encode_example(self, *arguments: Any, **options: Any) -> Example:
        return self.encode_examples(*arguments, **options)[0]


def codec(template: str | None = None, kind: type[ChatCodec] = ChatCodec) -> ChatCodec:
    tiny = tokenizer()
    return kind(tiny.backend_tokenizer, template or tiny.chat_template, tiny.special_tokens_map, (), None)


def examined(
    train: Sequence[Path | str], validation: Path | None = None, test: Path | str | None = None, **how: Any
) -> Examination:
    data = Data(
        files=tuple(map(Path, train)),
        validation=(validation or DEFECTS / "clean.validation.jsonl",),
        test=() if test is None else (Path(test),),
    )
    return examine(data, how.get("task", Chat(max_length=400)), how.get("codec") or codec(), 0)


def planted(rule: str) -> tuple[dict[str, Path], Path, int | None]:
    """The files of a rule by split, and the file and line of the defect."""
    files: dict[str, Path] = {}
    place: tuple[Path, int | None] | None = None
    for path in sorted(DEFECTS.glob(f"{rule}.*")):
        middle = path.name.split(".")[1:-1]
        if path.suffix == ".jinja":
            files["template"] = path
            continue
        split = middle[0] if middle and not middle[0].isdigit() else "train"
        files[split] = path
        numbers = [int(part) for part in middle if part.isdigit()]
        if numbers or len(middle) == 0:
            place = (path, numbers[0] if numbers else None)
    assert place is not None, f"no file in {DEFECTS} has a defect for {rule}"
    return files, *place


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_every_rule_finds_its_planted_defect(rule) -> None:
    files, path, line = planted(rule.id)
    template = files["template"].read_text() if "template" in files else None
    chosen = codec(template, Endless if rule.id == "no-end" else ChatCodec)
    found = examined(
        [files.get("train", DEFECTS / "clean.train.jsonl")],
        files.get("validation"),
        files.get("test"),
        codec=chosen,
    ).findings
    assert {finding.rule for finding in found} == {rule.id}, [finding.message for finding in found]
    assert (place_of(found[0]).file, place_of(found[0]).number) == (str(path), line)
    assert found[0].severity == rule.severity
    assert rule.check.__doc__, "a rule's docstring says what it is"


def test_rules_have_plain_ids_of_their_own() -> None:
    ids = [rule.id for rule in RULES]
    assert len(set(ids)) == len(ids)
    assert all(name == name.lower() and " " not in name for name in ids)


def test_a_clean_file_has_no_finding() -> None:
    assert examined([DEFECTS / "clean.train.jsonl"]).findings == []


def test_the_shipped_samples_have_no_error_and_one_true_warning() -> None:
    found = examined([SAMPLES[0]], test=SAMPLES[1], task=Chat(max_length=4096)).findings
    # "Define: Rum" and the like: the dictionary has a word twice, with two meanings.
    assert [(finding.rule, finding.severity, finding.count) for finding in found] == [
        ("conflicting-answers", "warning", 1)
    ]


def test_all_files_are_examined_whatever_is_wrong_with_one() -> None:
    """A file that cannot be read at all, one with a row that cannot be used, and one with a mere warning."""
    names = ["utf-16.1.jsonl", "unusable-file.jsonl", "unusable-row.7.jsonl", "control-tokens.4.jsonl"]
    found = examined([DEFECTS / name for name in names], test=DEFECTS / "nul-byte.4.jsonl").findings
    kinds = {finding.rule: place_of(finding).file.rpartition("/")[2] for finding in found}
    assert {rule: kinds[rule] for rule in ("utf-16", "unusable-file", "unusable-row", "control-tokens")} == {
        name.split(".")[0]: name for name in names
    }
    assert kinds["nul-byte"] == "nul-byte.4.jsonl"
    severities = [finding.severity for finding in found]
    assert severities == sorted(severities), "errors first"


def test_a_missing_file_is_a_finding_too(tmp_path) -> None:
    found = examined([DEFECTS / "empty-answer.5.jsonl", tmp_path / "gone.jsonl"]).findings
    assert [(finding.rule, str(finding.place)) for finding in found if finding.severity == "error"] == [
        ("unusable-file", str(tmp_path / "gone.jsonl")),
        ("empty-answer", f"{DEFECTS / 'empty-answer.5.jsonl'}:5"),
    ]
