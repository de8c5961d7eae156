"""A key file that a program edits: a server takes the new key at once, and what others may do stays as it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptune.cli import main
from ptune.errors import RequestError, UsageError
from ptune_serve.access.auth import ApiKeys
from ptune_serve.access.edited_keys import Rights, add, change, remove
from ptune_serve.access.keys import Limits, read

TOML = """# ours
[[keys]]
name = "alice"  # of the shop
key = "alices-own-key"
weight = 2.0
requests_per_minute = 60

# theirs
[[ keys ]]
name = "bob"
sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
"""
JSON = '{"name": "alice", "key": "alices-own-key", "weight": 2.0}\n{"name": "bob", "key": "bobs-own-key"}\n'


def written(folder: Path, text: str, name: str = "keys.toml") -> Path:
    path = folder / name
    path.write_text(text)
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("text", [TOML, JSON, "alices-own-key\n"])
def test_a_byte_order_mark_is_no_part_of_a_key(tmp_path: Path, text: str) -> None:
    """Windows' editors begin files with one."""
    path = written(tmp_path, f"\ufeff{text}", "keys")
    assert ApiKeys.read(path).check("Bearer alices-own-key") == read(path).keys[0]
    if text in (TOML, JSON):
        change(path, "alice", Rights(limits=Limits(concurrent=3)))
        assert read(path).keys[0].limits.concurrent == 3


def test_a_key_is_made_with_its_file_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "keys.toml"
    secret = add(path, "alice", Rights(("infer", "metrics"), ("sql", "prod"), Limits(requests_per_minute=9)))
    assert path.stat().st_mode & 0o777 == 0o600
    assert secret not in path.read_text()
    [key] = read(path).keys
    assert ApiKeys.read(path).check(f"Bearer {secret}") == key
    assert (key.scopes, key.adapters) == ({"infer", "metrics"}, {"sql", "prod"})
    assert (key.limits.requests_per_minute, key.limits.concurrent) == (9, None)
    other = add(path, "bob", Rights())
    assert {key.name for key in read(path).keys} == {"alice", "bob"}
    assert other != secret
    with pytest.raises(UsageError, match="'bob' already"):
        add(path, "bob", Rights())


@pytest.mark.parametrize("text", [TOML, JSON])
def test_what_a_key_may_do_is_changed_and_the_rest_stays(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, text)
    before = {key.name: key for key in read(path).keys}
    change(path, "alice", Rights(("admin",), None, Limits(tokens_per_minute=1000)))
    after = {key.name: key for key in read(path).keys}
    assert after["bob"] == before["bob"]
    assert (after["alice"].digest, after["alice"].weight) == (before["alice"].digest, 2.0)
    assert after["alice"].scopes == {"admin"}
    assert after["alice"].limits == Limits(tokens_per_minute=1000)
    assert ("# ours" in path.read_text(), "# of the shop" in path.read_text()) == (text == TOML, text == TOML)
    remove(path, "alice")
    assert [key.name for key in read(path).keys] == ["bob"]
    with pytest.raises(RequestError):
        ApiKeys.read(path).check("Bearer alices-own-key")
    with pytest.raises(UsageError, match="last key"):
        remove(path, "bob")


def test_a_json_file_stays_one(tmp_path: Path) -> None:
    path = written(tmp_path, JSON)
    add(path, "carol", Rights())
    assert [json.loads(line)["name"] for line in path.read_text().splitlines()] == ["alice", "bob", "carol"]


BY_HAND = '[[keys]]\nname = "alice"\nkey = "alices"\nadapters = [\n  "sql",\n]\n\n[[keys]]\nname = "bob"\nkey = "bobs"\n'
IN_ONE = 'keys = [{name = "alice", key = "alices"}, {name = "bob", key = "bobs"}]\n'


@pytest.mark.parametrize(
    ("text", "name", "rights", "told"),
    [
        (BY_HAND, "alice", Rights(), "only a hand"),
        ("# keys\nsecret-one\nsecret-two\n", "alice", Rights(), r"no \[\[keys\]\]"),
        (IN_ONE, "alice", Rights(), r"no \[\[keys\]\]"),
        (TOML, "carol", Rights(), "no key 'carol', but alice, bob"),
        (TOML, "alice", Rights(scopes=()), "scopes"),
        (TOML, "alice", Rights(adapters=()), "adapters"),
        (TOML, "alice", Rights(limits=Limits(concurrent=0)), "concurrent"),
        (TOML.replace("alice", "bob"), "bob", Rights(), "same name"),
    ],
)
def test_what_cannot_be_edited_stays_as_it_was(
    tmp_path: Path, text: str, name: str, rights: Rights, told: str
) -> None:
    path = written(tmp_path, text, "keys.toml" if "=" in text else "keys")
    with pytest.raises(UsageError, match=told):
        change(path, name, rights)
    assert path.read_text() == text


@pytest.mark.parametrize("name", ["", "two words", "a" * 65, 'x"\n[[keys]]'])
def test_a_name_that_is_none_makes_no_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="name"):
        add(tmp_path / "keys.toml", name, Rights())
    assert [*tmp_path.iterdir()] == []


_NAMES = st.from_regex(r"[A-Za-z0-9_.@-]{1,12}", fullmatch=True)
_RIGHTS = st.builds(
    Rights,
    st.lists(st.sampled_from(["infer", "metrics", "admin"]), min_size=1, unique=True).map(tuple),
    st.none() | st.lists(st.text(st.characters(codec="utf-8"), max_size=8), min_size=1).map(tuple),
    st.builds(Limits, *[], concurrent=st.none() | st.integers(1, 10**12)),
)


@settings(max_examples=30)  # each writes files, and syncs them
@given(
    rights=st.dictionaries(_NAMES, _RIGHTS, min_size=1, max_size=2), text=st.sampled_from(["", TOML, JSON])
)
def test_whatever_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, rights: dict[str, Rights], text: str
) -> None:
    path = tmp_path_factory.mktemp("keys") / "keys.toml"
    if text:
        path.write_text(text)
    rights = {name: one for name, one in rights.items() if name not in ("alice", "bob")}
    for name, one in rights.items():
        add(path, name, Rights())
        change(path, name, one)
    found = {key.name: key for key in read(path).keys} if rights else {}
    for name, one in rights.items():
        assert found[name].scopes == {*one.scopes}
        assert found[name].adapters == (None if one.adapters is None else {*one.adapters})
        assert found[name].limits == one.limits


def test_the_command_makes_a_key_once_and_changes_what_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "keys.toml"
    assert main(["key", str(path), "alice", "--requests-per-minute", "60", "--adapters", "sql", "prod"]) == 0
    secret = capsys.readouterr().out.splitlines()[0]
    assert ApiKeys.read(path).check(f"Bearer {secret}").name == "alice"
    assert main(["key", str(path), "alice", "--scopes", "infer", "admin", "--requests-per-minute", "0"]) == 0
    assert secret not in capsys.readouterr().out
    [key] = read(path).keys
    assert (key.scopes, key.adapters, key.limits) == ({"infer", "admin"}, {"sql", "prod"}, Limits())
    assert main(["key", str(path), "alice", "--adapters", "all"]) == 0
    assert read(path).keys[0].adapters is None
    assert main(["key", str(path), "alice", "--concurrent", "-1"]) == 2
    assert main(["key", str(path), "alice", "--remove"]) == 2
    assert "last key" in capsys.readouterr().err
    assert main(["key", str(path), "bob"]) == 0
    assert main(["key", str(path), "alice", "--remove"]) == 0
    assert [key.name for key in read(path).keys] == ["bob"]
