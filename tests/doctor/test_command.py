"""`ptune doctor` from end to end on a tiny model, what it prints, and what training does with the findings."""

from __future__ import annotations

import io
import itertools
import json
import re
import shlex
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from support import tiny_models

from ptune.backbone.load import load, load_codec
from ptune.cli import main
from ptune.cli.train import TrainOptions
from ptune.codecs.chat import ChatCodec, Example
from ptune.config.chat import Chat
from ptune.config.recipe import Backbone, Data, Recipe
from ptune.doctor.command_line import doctor_command
from ptune.doctor.doctor import Doctor, judge
from ptune.doctor.examination import examine
from ptune.doctor.finding import Finding, Place
from ptune.doctor.histogram import bins, drawn, percentile
from ptune.doctor.show import show, stretches
from ptune.errors import DataError

DEFECTS = Path(__file__).parent / "defects"
_TINY = tiny_models.tokenizer()
CODEC = ChatCodec(_TINY.backend_tokenizer, _TINY.chat_template, _TINY.special_tokens_map, (), None)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> str:
    """A recipe file with a tiny model."""
    folder = tmp_path_factory.mktemp("doctor")
    model = tiny_models.build(folder / "llama", "llama")
    path = folder / "tiny.py"
    path.write_text(
        "from ptune.config.recipe import Backbone, Recipe\n"
        f"recipe = Recipe(name='tiny', backbone=Backbone(model={str(model)!r}))\n"
    )
    return str(path)


def doctored(capsys, *arguments: str) -> tuple[int, str]:
    code = main(["doctor", *arguments])
    return code, capsys.readouterr().out


def test_clean_data_ends_with_the_command_that_comes_next(recipe, capsys):
    files = ["--data.files", str(DEFECTS / "clean.train.jsonl"), "--task.max-length", "200"]
    code, out = doctored(capsys, recipe, *files)
    assert code == 0
    assert "nothing is wrong with the data" in out
    assert out.rstrip().splitlines()[-1] == f"next: ptune train {recipe} {' '.join(files)}"
    assert re.search(r"^train +7 ", out, re.MULTILINE)  # one of the eight is held out
    assert re.search(r"^validation +1 ", out, re.MULTILINE)
    assert "longest allowed 200: nothing is longer" in out


def test_errors_and_warnings_come_in_one_report_that_fits_a_pipe(recipe, capsys):
    names = ("utf-16.1.jsonl", "unusable-row.7.jsonl", "empty-answer.5.jsonl", "control-tokens.4.jsonl")
    code, out = doctored(capsys, recipe, "--data.files", *(str(DEFECTS / name) for name in names))
    assert code == 1
    assert "\x1b" not in out, "no colour in a pipe"
    for name in names:
        rule, line, _ = name.split(".")
        assert re.search(rf"^(error|warning) +{rule}  .*/{re.escape(name)}:{line}$", out, re.MULTILINE)
    told = [line for line in out.splitlines() if "/" not in line]  # a path stays in one piece
    assert max(map(len, told)) <= 80
    assert "next:" not in out


def test_json_is_for_programs(recipe, capsys):
    train, validation = (DEFECTS / f"unknown-labels.{name}.jsonl" for name in ("train", "validation.3"))
    files = ("--data.files", str(train), "--data.validation", str(validation))
    code, out = doctored(capsys, recipe, *files, "--json")
    told = json.loads(out)
    assert code == 0
    assert told["findings"] == [
        {
            "rule": "unknown-labels",
            "severity": "warning",
            "place": {"file": str(validation), "line": 3},
            "count": 1,
            "others": [],
            "message": "label 'Good' is in no training example: is 'good' meant?",
        }
    ]
    assert told["labels"]["good"] == {"train": 12, "validation": 2, "test": 0}
    assert told["splits"]["train"]["examples"] == sum(told["splits"]["train"]["lengths"].values()) == 24
    text = "".join(part["text"] for part in told["example"] if part["target"])
    assert text == "bad<|im_end|>"


def test_without_files_it_says_what_to_pass(recipe, capsys):
    assert main(["doctor", recipe]) == 1
    assert "pass --data.files PATH" in capsys.readouterr().err


@pytest.mark.parametrize("family", ["llama", "gemma3"])
@pytest.mark.parametrize("removed", [None, "generation_config.json"])
def test_the_codec_is_the_one_that_trains(tmp_path, family, removed):
    folder = tiny_models.build(tmp_path / family, family)
    if removed:
        (folder / removed).unlink()
    spec = Backbone(model=str(folder), dtype="float32", new_tokens=("<ingredient>",))
    light, whole = load_codec(spec), load(spec, device="cpu").codec
    light.save(tmp_path / "light")
    whole.save(tmp_path / "whole")
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "light" / path.name).read_bytes() == path.read_bytes()


# What is shown


def test_targets_are_marked_with_and_without_colour():
    data = Data(files=(DEFECTS / "clean.train.jsonl",), validation=(DEFECTS / "clean.validation.jsonl",))
    examination = examine(data, Chat(), CODEC, 0)
    for colour in (None, "truecolor"):
        out = io.StringIO()
        show(examination, Console(file=out, width=80, color_system=colour, force_terminal=bool(colour)))
        assert ("\x1b[32m⟦Paris, on the Seine.<|im_end|>⟧" in out.getvalue()) == bool(colour)
        assert "⟦Paris, on the Seine.<|im_end|>⟧" in out.getvalue()


def test_what_data_holds_does_not_steer_the_terminal(tmp_path):
    row = {"prompt": "\x1b[2Jwhat\x07", "completion": "\x1b]0;title\x07"}
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row) + "\n" + json.dumps({**row, "completion": "<|im_end|>\x1b[31m"}) + "\n")
    out = io.StringIO()
    show(examine(Data(files=(path,)), Chat(), CODEC, 0), Console(file=out, width=80, color_system=None))
    assert not {"\x1b", "\x07"} & set(out.getvalue())
    assert "␛[2Jwhat␇" in out.getvalue()


@given(text=st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=40), answers=st.integers(1, 3))
def test_stretches_are_the_whole_text(text, answers):
    turns = [{"role": "user", "content": text}, {"role": "assistant", "content": text}] * answers
    example = CODEC.encode_example(turns)
    told = list(stretches(example, CODEC))
    assert "".join(part for part, _ in told) == CODEC.tokenizer.decode(example.ids, skip_special_tokens=False)
    assert [part for part, target in told if target] == [f"{text}<|im_end|>"] * answers


def test_a_long_stretch_is_cut_in_its_middle():
    told = list(stretches(Example(tuple([70] * 1000), (False, *[True] * 999)), CODEC))
    assert [target for _, target in told] == [False, True]
    assert " … 879 tokens … " in told[1][0]


@given(
    counts=st.dictionaries(st.integers(1, 5000), st.integers(1, 99), max_size=30), limit=st.integers(1, 6000)
)
def test_every_number_is_in_one_bin_and_no_bin_reaches_over_the_limit(counts, limit):
    found = bins(counts, limit)
    assert sum(each.count for each in found) == sum(counts.values())
    assert all(before.last + 1 == after.first for before, after in itertools.pairwise(found))
    assert not any(each.first <= limit < each.last for each in found)
    assert len(found) <= 14
    lines = list(drawn(found, limit, "limit"))
    assert sum("limit" in line for line in lines) == 1
    assert max(map(len, lines)) <= 80
    numbers = sorted(number for number, count in counts.items() for _ in range(count))
    assert percentile(counts, 0.5) == (numbers[(len(numbers) - 1) // 2] if numbers else 0)


# Before training


def test_a_clean_copy_of_bad_data_comes_next(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": f"what is {n}", "completion": f"it is {n}"} for n in range(40)]
    bad = tmp_path / "my rows.jsonl"
    bad.write_text("\n".join([*map(json.dumps, rows), "{", ""]))
    command = [
        "doctor",
        recipe,
        "--data.files",
        str(bad),
        "--train.lr",
        "1e-4",
        "--clean",
        str(tmp_path / "clean"),
    ]
    assert main(command) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    copy = tmp_path / "clean" / "my rows.clean.jsonl"
    assert last == f"next: ptune doctor {recipe} --train.lr 1e-4 --data.files '{copy}'"
    assert main(shlex.split(last)[2:]) == 0


@pytest.mark.parametrize(
    ("command", "doctor"),
    [
        ("ptune train r.yaml --out runs/a", "ptune doctor r.yaml"),
        ("ptune train r.yaml --out=runs/a --train.lr 3 --resume", "ptune doctor r.yaml --train.lr 3"),
        ("ptune train r.yaml --ray --train.lr 3", "ptune doctor r.yaml --train.lr 3"),
        (
            "ptune train r.yaml --ray auto --workers 2 --data.files 'a b'",
            "ptune doctor r.yaml --data.files 'a b'",
        ),
        ("ptune train r.yaml --no-resume --no-dry-run", "ptune doctor r.yaml"),
        ("ptune train 'my --out.yaml'", "ptune doctor 'my --out.yaml'"),
        ("accelerate launch r.py --out x", "ptune doctor RECIPE"),
    ],
)
def test_the_command_that_shows_more_has_only_options_of_the_doctor(command: str, doctor: str) -> None:
    assert doctor_command(command) == doctor


def test_every_option_of_training_itself_is_left_out() -> None:
    own = set(TrainOptions.model_fields) - set(Recipe.model_fields)
    for name in own:
        assert doctor_command(f"ptune train r.yaml --{name.replace('_', '-')}") == "ptune doctor r.yaml"


def test_training_stops_at_errors_and_counts_warnings(capsys):
    warning = Finding("duplicates", "warning", "a copy", Place("a.jsonl", 7), 3)
    error = Finding("no-end", "error", "no end", Place("a.jsonl", 2), 5)
    judge([], "ptune doctor x.py")
    judge([warning], "ptune doctor x.py")
    assert capsys.readouterr().err == "data: 1 warning; ptune doctor x.py shows them\n"
    with pytest.raises(DataError) as caught:
        judge([error, warning], "ptune doctor x.py")
    assert str(caught.value) == (
        "the data has errors; nothing was trained. ptune doctor x.py shows more\n"
        "  a.jsonl:2 and 4 more: no end [no-end]"
    )


def test_the_doctor_is_an_examiner_of_what_training_reads():
    from ptune.data.examples import dataset

    doctor = Doctor(Chat(), CODEC)
    data = Data(files=(DEFECTS / "duplicates.8.jsonl",), validation=(DEFECTS / "clean.validation.jsonl",))
    loaded = dataset.load(data, Chat(), CODEC, 0, examiner=doctor)
    assert [finding.described()["rule"] for finding in doctor.findings()] == ["duplicates"]
    assert len(doctor.splits["train"]) == len(loaded.train)
    assert doctor.splits["train"].tokens == sum(map(len, loaded.train))


@settings(max_examples=50)
@given(
    roles=st.lists(st.sampled_from(["system", "user", "assistant", "tool"]), max_size=6),
    texts=st.lists(st.text(max_size=10), min_size=6, max_size=6),
)
def test_whatever_can_be_encoded_can_be_examined(roles, texts):
    from ptune.data.problems import Problems
    from ptune.data.shapes.conversations import Conversation
    from ptune.data.source import Sample
    from ptune.errors import TemplateError

    messages = tuple({"role": role, "content": text} for role, text in zip(roles, texts, strict=False))
    conversation = Conversation(({"role": "user", "content": "?"}, *messages))
    doctor = Doctor(Chat(), CODEC)
    try:
        example = conversation.example(CODEC, "assistant")
    except TemplateError:
        return
    doctor.sample("train", Sample(conversation, 1, Problems("file")), example)
    json.dumps([finding.described() for finding in doctor.findings()])
