"""Which bundles a folder holds, and the file of options beside each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.several_bundles import MB, FakeOpening, several, write_all, write_bundle

from ptune.cli.parse import parse
from ptune.cli.serve import Serve
from ptune.engine.memory import predicted_bytes
from ptune.engine.options import GIB, EngineOptions
from ptune.errors import FormatError, UsageError
from ptune.formats.bundle import AdapterRecord, Bundle
from ptune_serve.bundles.folder import SeveralBundles, find_bundles


def test_a_folder_of_bundles(tmp_path: Path) -> None:
    write_all(tmp_path)
    (tmp_path / "notes").mkdir()
    found = find_bundles([tmp_path])
    assert [(place.name, place.kind.name) for place in found] == [
        ("chat", "decoder"),
        ("german", "seq2seq"),
        ("small", "decoder"),
        ("texts", "encoder"),
    ]
    assert [place.name for place in find_bundles([tmp_path / "texts", tmp_path / "chat"])] == [
        "texts",
        "chat",
    ]
    assert len(find_bundles([tmp_path / "chat", tmp_path])) == 4, "one that is named twice is there once"


def test_folders_that_cannot_be_served(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no bundle and holds none"):
        find_bundles([tmp_path])
    with pytest.raises(UsageError, match="there is no such folder"):
        find_bundles([tmp_path / "gone"])
    for place in ("one", "two"):
        write_bundle(tmp_path / place / "mine")
    with pytest.raises(UsageError, match=r"one/mine and .*two/mine have the same name"):
        find_bundles([tmp_path / "one", tmp_path / "two"])
    write_bundle(tmp_path / "three" / "a:b")
    with pytest.raises(UsageError, match="rename the folder"):
        find_bundles([tmp_path / "three"])
    (tmp_path / "one" / "mine" / "manifest.json").write_text("{")
    with pytest.raises(FormatError, match=r"manifest\.json"):
        find_bundles([tmp_path / "one"])


def test_options_of_each_bundle(tmp_path: Path) -> None:
    write_all(tmp_path)
    (tmp_path / "chat.yaml").write_text(
        "idle_s: 0\npreload: true\nkv_gb: 0.5\nmax_rows: 3\nadapter_bytes: 2MB\nrequire_parity: true\n"
        "thinking_token_budget: 7\nthreads: 1\n"
    )
    (tmp_path / "texts.yaml").write_text("# nothing\n")
    opening = FakeOpening()
    with several(tmp_path, opening=opening, idle_s=9.0) as served:
        served.http.get("/health")
        refused = served.chat("chat:sql")
        assert refused.status_code == 403
        assert refused.json()["error"]["code"] == "parity_unmeasured"
        assert opening.opened == ["chat"]
        engine = opening.options["chat"]
        assert (engine.kv_bytes, engine.max_rows, engine.adapter_bytes) == (GIB // 2, 3, 2 * 10**6)
        assert served.said("small:sql")
        assert opening.options["small"].max_rows == EngineOptions().max_rows
        loaded = served.host.bundles.loaded("chat")
        assert loaded is not None
        assert loaded.service.settings.thinking_token_budget == 7
        ends = {model["name"]: model["expires_at"] for model in served.http.get("/api/ps").json()["models"]}
        assert ends["small:latest"] < ends["chat:latest"], (
            "one stays for 9 s, the other until others need the room"
        )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("idle: 5", "idle: there is no such option; did you mean idle_s?"),
        ("zebra: 5", "zebra: there is no such option; it may have idle_s, preload"),
        ("max_rows: 0", "max_rows: Input should be greater than or equal to 1 (is '0')"),
        ("max_rows: many", "max_rows: Input should be a valid integer (is 'many')"),
        ("kv_gb: -1", "kv_gb: Input should be greater than 0"),
        ("adapter_bytes: much", "adapter_bytes: must be a size, as in 500MB or 1GB"),
        ("kernels: fast", "kernels: Input should be 'auto', 'own', 'exact' or 'off'"),
        ("idle_s: .nan", "idle_s: "),
        ("- a", "it must hold options, one a line"),
        ("idle_s: [", "cannot be read"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    write_bundle(tmp_path / "chat")
    (tmp_path / "chat.yaml").write_text(text)
    with pytest.raises(UsageError) as caught:
        find_bundles([tmp_path])
    assert str(caught.value).startswith(f"{tmp_path.resolve() / 'chat.yaml'}")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_option_of_decoders_is_refused_for_an_encoder(tmp_path: Path) -> None:
    write_all(tmp_path)
    (tmp_path / "texts.yaml").write_text("kv_gb: 2")
    with pytest.raises(
        UsageError, match=r"texts\.yaml: kv_gb: texts holds an encoder, which has no such option"
    ):
        find_bundles([tmp_path])


def test_what_a_bundle_will_take_is_predicted_from_its_files(tmp_path: Path) -> None:
    options = EngineOptions(kv_bytes=5 * MB)
    chat = Bundle.open(write_bundle(tmp_path / "chat", size_bytes=3 * MB))
    assert predicted_bytes(chat, options) == 2 * 3 * MB + 5 * MB
    on_disk = replace(options, kv_disk=tmp_path / "idle")
    assert predicted_bytes(chat, on_disk) == 2 * 3 * MB + 5 * MB + 256 * 2**20, "and what waits to be written"
    adapter = AdapterRecord(name="sql")
    more = Bundle.open(write_bundle(tmp_path / "more", size_bytes=3 * MB, adapters=(adapter,)))
    taken = (more.adapter_path("sql") / "adapter.json").stat().st_size
    assert predicted_bytes(more, options) == 2 * 3 * MB + 5 * MB + taken
    encoder = Bundle.open(write_bundle(tmp_path / "encoder", "encoder", size_bytes=3 * MB))
    assert predicted_bytes(encoder, options) == 2 * 3 * MB


def test_the_command_line(tmp_path: Path) -> None:
    write_all(tmp_path)

    def served(*arguments: str) -> object:
        return parse(Serve, [*arguments], "serve")._served()

    one, two = str(tmp_path / "chat"), str(tmp_path / "texts")
    assert served(one) == tmp_path / "chat"
    assert served(str(tmp_path / "gone")) == tmp_path / "gone"
    assert served(str(tmp_path)) == SeveralBundles((tmp_path,))
    several = served(one, two, "--memory-gb", "1.5", "--idle-s", "7")
    assert several == SeveralBundles((tmp_path / "chat", tmp_path / "texts"), 3 * GIB // 2, 7.0)
    with pytest.raises(UsageError, match="--idle-s is for several bundles"):
        served(one, "--idle-s", "7")
    for memory_gb in ("0", "-1", "nan", "inf"):
        with pytest.raises(UsageError, match="--memory-gb must be over 0"):
            served(str(tmp_path), f"--memory-gb={memory_gb}")
    with pytest.raises(UsageError, match="--idle-s must be 0"):
        SeveralBundles((tmp_path,), idle_s=float("nan")).check()
