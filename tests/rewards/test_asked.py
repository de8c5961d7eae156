"""What a recipe asks for, read: weights, shipped rewards, functions of files and modules."""

from __future__ import annotations

import contextlib
import math
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptune.errors import PtuneError, RecipeError
from ptune.rewards import rewards_of
from ptune.rewards.table import SHIPPED

OWN = """
from __future__ import annotations
from dataclasses import dataclass
from typing import ClassVar
from beside_mine import WORTH

@dataclass
class Kept:
    shared: ClassVar[int] = 3
    worth: float = WORTH

def reward(prompts, completions, **kwargs):
    return [Kept().worth] * len(completions)

class Judge:
    def __call__(self, completions):
        return [0.0] * len(completions)

judge = Judge()
NUMBER = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "beside_mine.py").write_text("WORTH = 0.25\n")
    (tmp_path / "my_rewards.py").write_text(OWN)
    (tmp_path / "broken.py").write_text("import nothing_of_this_name\n")
    (tmp_path / "package_of_mine").mkdir()
    (tmp_path / "package_of_mine" / "judges.py").write_text("def strict(completions):\n    return [0.5]\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", SHIPPED)
def test_every_row_of_the_table_is_there(name: str, tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text("{}")
    (tmp_path / "manifest.json").write_text("{}")
    arguments = {"regex": "x", "json_schema": str(tmp_path / "schema.json"), "length": "3", "overlong": "3"}
    arguments["reward_model"] = arguments["process_reward"] = str(tmp_path)
    argument = arguments.get(name)
    (found,) = rewards_of([name if argument is None else f"{name}:{argument}"])
    assert (found.name, found.weight) == (name, 1.0)


def test_weights_names_and_order(own: Path) -> None:
    found = rewards_of(
        ["exact", "0.2*length:40", r"-1.5 * regex:^\d*\d$", "regex:a*b", "my_rewards.py:reward", "2*package_of_mine.judges:strict",
         "1e-3*my_rewards:reward"]
    )  # fmt: skip
    assert [(one.name, one.weight) for one in found] == [
        ("exact", 1.0),
        ("length", 0.2),
        (r"regex:^\d*\d$", -1.5),
        ("regex:a*b", 1.0),
        ("my_rewards.py:reward", 1.0),
        ("strict", 2.0),
        ("my_rewards:reward", 0.001),
    ]
    assert found[4](["p"], ["c"], {}) == [0.25]
    assert found[5](["p"], ["c"], {}) == [0.5]


def test_objects_that_can_be_called(own: Path) -> None:
    (found,) = rewards_of(["my_rewards.py:judge"])
    assert found(["p"], ["c"], {}) == [0.0]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ([], r"no reward is asked for; there are exact\[:COLUMN\], .*FILE.py:FUNCTION"),
        (["exakt"], "there is no reward 'exakt'; did you mean 'exact'?"),
        (["zzz"], r"there is no reward 'zzz'; there are exact\[:COLUMN\], "),
        (["zzz:fn"], "there is no reward 'zzz'"),
        (["2*"], r"reward '2\*' has no name"),
        ([""], "reward '' has no name"),
        (["0*exact"], r"reward '0\*exact': its weight is 0, and has to be a number other than 0"),
        (["1e999*exact"], "its weight is inf"),
        (["exact", "2*exact"], "reward 'exact' is asked for twice"),
        (["exact:"], r"reward 'exact' is asked for as exact\[:COLUMN\]: no column stands behind the colon"),
        (["length"], "reward 'length' is asked for as length:WORDS: '' is no number of words, 1 or more"),
        (["length:0"], "'0' is no number of words"),
        (["overlong:x"], "'x' is no number of words"),
        (["repetition:-1"], "'-1' is no number of words"),
        (["regex"], "no pattern stands behind the colon"),
        (["regex:("], r"'\(' is not a valid pattern"),
        (["json_schema:gone.json"], "cannot read gone.json: No such file"),
        (["reward_model:gone"], "gone is no bundle"),
        (["gone.py:reward"], "there is no file gone.py"),
        (["my_rewards.py:rewrad"], "there is no function 'rewrad'; there are reward, judge"),
        (["my_rewards.py:NUMBER"], "there is a int and no function 'NUMBER'"),
        (["broken.py:reward"], "broken.py cannot be run: ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        (["package_of_mine.gone:f"], "package_of_mine.gone cannot be imported: ModuleNotFoundError"),
        (["package_of_mine.judges:mild"], "there is no function 'mild'; there are strict"),
    ],
)  # fmt: skip
def test_what_cannot_be(own: Path, asked: list[str], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        rewards_of(asked)


@given(
    st.floats(allow_nan=False, allow_infinity=False).filter(lambda number: number != 0),
    st.sampled_from(["exact", "number:solution", "repetition:4", "length:7"]),
)
def test_any_weight_is_read(weight: float, name: str) -> None:
    (found,) = rewards_of([f"{weight!r}*{name}"])
    assert math.isclose(found.weight, weight, rel_tol=0, abs_tol=0)
    assert found.name == name.partition(":")[0]


@given(st.text(max_size=30))
def test_any_text_is_a_reward_or_refused_in_a_sentence(text: str) -> None:
    with contextlib.suppress(PtuneError):
        (found,) = rewards_of([text])
        assert found.weight
