"""Files that make the same things stay in one process; all others are on their own."""

from __future__ import annotations

from pathlib import Path

from support.sharing import group_of


def test_the_source_says_with_whom_a_file_stays(tmp_path: Path) -> None:
    sources = {
        "a": "from support import retrieval_runs\n",
        "b": "from support.seq2seq_bundles import make\n",
        "c": "from support import tiny_models\n",
        "d": "from support import tiny_models\n",
    }
    for name, source in sources.items():
        (tmp_path / name).write_text(source, encoding="utf-8")
    groups = [group_of(tmp_path / name) for name in sources]
    assert groups[0] == groups[1]
    assert len({*groups}) == 3
