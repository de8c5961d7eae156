"""Every rule on pairs of texts finds its planted defect, by file and line, and nothing else; clean sets are found clean.

The files are named as those of conversations, see test_rules.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from doctor.test_rules import codec
from support.findings import place_of

from ptune.config.columns import TranslationColumns
from ptune.config.recipe import Data
from ptune.config.translation import Translation
from ptune.doctor.doctor import Doctor
from ptune.doctor.examination import Examination, examine
from ptune.doctor.translation import RULES, wrong_language

DEFECTS = Path(__file__).parent / "defects" / "translation"
TASK = Translation(
    columns=TranslationColumns(source="en", target="es"),
    source_language="en",
    target_language="es",
    max_length=400,
)
OF_SETS = ("duplicates", "conflicting-answers", "test-overlap", "validation-overlap")
SAMPLES = (Path("sample:django_es.train"), Path("sample:django_es.test"))


def examined(
    train: Path, validation: Path | None = None, test: Path | None = None, **fields: object
) -> Examination:
    clean = DEFECTS / "clean.validation.jsonl"
    data = Data(files=(train,), validation=(validation or clean,), test=() if test is None else (test,))
    return examine(data, TASK.model_copy(update=fields), codec(), 0)


@pytest.mark.parametrize("rule", [*(rule.id for rule in RULES), "wrong-language", *OF_SETS])
def test_every_rule_finds_its_planted_defect(rule: str) -> None:
    files, place = {"train": DEFECTS / "clean.train.jsonl"}, None
    for path in DEFECTS.glob(f"{rule}.*"):
        *split, last = path.name.split(".")[1:-1]
        files[split[0] if split else ("train" if last.isdigit() else last)] = path
        place = (str(path), int(last)) if last.isdigit() else place
    found = examined(files["train"], files.get("validation"), files.get("test")).findings
    assert [finding.rule for finding in found] == [rule], [finding.message for finding in found]
    assert (place_of(found[0]).file, place_of(found[0]).number) == place
    known = {one.id: one for one in Doctor(TASK, codec()).rules}
    assert known[rule].check.__doc__ or type(known[rule].check).__doc__


def test_clean_files_have_no_finding() -> None:
    assert examined(DEFECTS / "clean.train.jsonl").findings == []


def test_the_shipped_sample_has_no_finding() -> None:
    data = Data(files=SAMPLES[:1], test=SAMPLES[1:])
    assert [
        finding.message
        for finding in examine(data, TASK.model_copy(update={"max_length": 600}), codec(), 0).findings
    ] == []


def test_the_words_of_conversations_are_not_used() -> None:
    """Nobody who has columns knows of messages[1]."""
    found = examined(DEFECTS / "empty-side.4.jsonl").findings
    assert "the target is empty" in found[0].message
    assert "messages" not in found[0].message


def test_swapped_columns_are_seen_on_both_sides(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (DEFECTS / "clean.train.jsonl").read_text().splitlines()]
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps({"en": row["es"], "es": row["en"]}) + "\n" for row in rows))
    (finding,) = examined(path).findings
    assert (finding.rule, finding.count) == ("wrong-language", 3)
    assert "the source looks like Spanish, not English" in finding.message


@pytest.mark.parametrize("languages", [(None, None), ("tlh", "tlh"), ("en", "es-MX")])
def test_languages_that_are_not_known_are_not_looked_at(languages: tuple[str | None, str | None]) -> None:
    source, target = languages
    found = examined(
        DEFECTS / "wrong-language.5.jsonl", source_language=source, target_language=target
    ).findings
    assert [finding.rule for finding in found] == (["wrong-language"] if target == "es-MX" else [])


def test_a_rule_of_languages_says_what_it_is() -> None:
    rule = wrong_language(TASK)
    assert (rule.id, rule.severity) == ("wrong-language", "warning")
