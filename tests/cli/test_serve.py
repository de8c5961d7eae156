"""Options of `ptune serve` that are checked before anything is opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from ptune.cli.engine_flags import size_of
from ptune.cli.parse import parse
from ptune.cli.serve import Serve
from ptune.errors import UsageError


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("1GB", 10**9), ("1.5 GiB", 3 * 2**29), ("500m", 5 * 10**8), ("64KiB", 65536), ("1000000", 10**6), (" 2tb ", 2 * 10**12)],
)  # fmt: skip
def test_sizes(text: str, size_bytes: int) -> None:
    assert size_of(text, "--adapter-bytes") == size_bytes


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "1XB", "1iB", "nan", "1e9", "0", "0GB", "1GB1", "9" * 30])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="--adapter-bytes"):
        parse(Serve, ["bundle", f"--adapter-bytes={text}"], "serve")


def test_nothing_may_be_stored() -> None:
    sizes = {"0": 0, "1MB": 10**6}
    for text, size_bytes in sizes.items():
        settings = parse(Serve, ["bundle", f"--max-stored-bytes={text}"], "serve")._settings()
        assert settings.max_stored_bytes == size_bytes
    with pytest.raises(UsageError, match="--max-stored-bytes"):
        parse(Serve, ["bundle", "--max-stored-bytes=much"], "serve")._settings()


def test_files_are_kept_where_a_folder_is_named(tmp_path: Path) -> None:
    assert parse(Serve, ["bundle"], "serve")._files() is None
    options = parse(Serve, ["bundle", f"--files={tmp_path}", "--max-file-bytes=1MB"], "serve")._files()
    assert (options.folder, options.max_file_bytes) == (tmp_path, 10**6)
    with pytest.raises(UsageError, match="--files-bytes"):
        parse(Serve, ["bundle", f"--files={tmp_path}", "--files-bytes=much"], "serve")._files()
    with pytest.raises(UsageError, match="--batch-lines must be 1 or more"):
        Serve(tmp_path, batch_lines=0).start()


def test_options_that_mean_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="it needs --adapters-api"):
        Serve(tmp_path, adapter_root=tmp_path).start()
    with pytest.raises(UsageError, match="there is no such folder"):
        Serve(tmp_path, adapter_root=tmp_path / "gone", adapters_api=True).start()
    with pytest.raises(UsageError, match="--max-adapters must be 1 or more"):
        Serve(tmp_path, max_adapters=0).start()
    with pytest.raises(UsageError, match="--thinking-token-budget must be 0 or more"):
        Serve(tmp_path, thinking_token_budget=-1).start()
