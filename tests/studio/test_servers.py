"""What the studio asks of a server, over real servers: load, answers, adapters that come, canaries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.fake_chat_model import FakeChatModel, FakeEngine, serving
from support.living_adapters import Living, living

import ptune
from ptune.errors import PtuneError, UsageError
from ptune.studio.judge.said import bars
from ptune.studio.serve.load import Load, load_of
from ptune.studio.serve.load_tables import figures, keys, limits, models
from ptune.studio.serve.servers import (
    Client,
    NoServerError,
    address,
    alias_body,
    curl,
    gives_numbers,
    request_of,
    said,
    scores_of,
    writes_text,
)
from ptune.studio.ship.aliases import alias_table
from ptune_serve.access.auth import ApiKeys
from ptune_serve.access.keys import Key, Limits, plain
from ptune_serve.app import create_app
from ptune_serve.service import Settings


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Living:
    made = living(tmp_path_factory.mktemp("living"))
    made.adapter("added", seed=7)
    return made


@pytest.fixture(scope="module")
def url(there: Living) -> Iterator[str]:
    model = ptune.load(there.folder, threads=1, max_rows=4)
    with serving(create_app(model, Settings(adapters_api=True))) as found:
        yield found
    model.close()


def test_an_answer_and_the_load_that_it_makes(url: str) -> None:
    with Client(f"{url}/v1/") as client:
        card = next(one for one in client.models() if one["id"] == "wide")
        before = client.scrape()
        text, scores, left = client.answer(card, "Define: Patience")
        now = client.scrape()
    assert (text.strip() != "", scores, left) == (True, None, {})
    load = load_of(now, before)
    mine = next(one for one in load.adapters if one.name == "wide")
    assert (mine.requests, mine.at_hand) == (1, True)
    assert mine.tokens is not None
    assert mine.tokens_per_s == pytest.approx(mine.tokens / (now.at_s - before.at_s))
    assert load.tokens_per_s == mine.tokens_per_s
    assert mine.median_s is not None
    assert (load.running, load.waiting) == (0, 0)
    assert load_of(now).tokens_per_s is None, "one look is no rate"
    html = models([card, {"id": "base", "task": "chat"}], load)
    assert html.index("wide") < html.index(">base<")
    assert f"{mine.tokens:,}" in html
    assert "tokens/s" in figures(load)


def test_an_adapter_comes_and_is_tried_on_a_share(url: str, there: Living) -> None:
    with Client(url) as client:
        card = client.add("added", there.folders["added"])
        assert (card["name"], card["parity"]) == ("added", "unmeasured")
        assert "added" in [one["id"] for one in client.models()]
        with pytest.raises(NoServerError, match="already"):
            client.add("added", there.folders["added"])
        body = alias_body("prod", "added", 0.25, margin=0.1)
        client.point("wide", body)
        [alias] = client.aliases()
        assert (alias["name"], alias["canary"]["name"], alias["canary"]["share"]) == ("wide", "added", 0.25)
        assert alias["canary"]["decide"]["users"]["margin"] == 0.1
        html = alias_table(client.aliases())
        assert html.index("prod") < html.index("wide") < html.index("added") < html.index("25%")
        assert "added: 0 scores" in html
        client.roll_back("prod")
        assert client.aliases()[0].get("canary") is None
    assert "no alias" in alias_table([])


def test_a_server_without_the_adapters_api_says_what_to_start_it_with(there: Living) -> None:
    with serving(create_app(FakeChatModel(FakeEngine()))) as found, Client(found) as client:
        with pytest.raises(NoServerError, match="--adapters-api"):
            client.add("added", there.folders["added"])
        with pytest.raises(NoServerError, match="--adapters-api"):
            client.aliases()


def test_a_key_and_its_limits() -> None:
    alice = Key("alice", plain("secret").digest, frozenset({"infer"}), limits=Limits(requests_per_minute=9))
    settings = Settings(api_keys=ApiKeys((alice,)))
    with serving(create_app(FakeChatModel(FakeEngine()), settings)) as found:
        for wrong in ("", None, "other"):
            with Client(found, wrong) as client, pytest.raises(NoServerError, match="API key"):
                client.models()
        with Client(found, " secret ") as client:
            text, _, left = client.answer(client.models()[0], "ahoy")
            assert "heard: ahoy" in text
            assert limits(left).startswith("8 of 9 requests a minute are left")
            with pytest.raises(NoServerError, match="scope"):
                client.scrape()


def test_keys_of_a_file_are_shown_without_the_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(
        '[[keys]]\nname = "alice"\nkey = "very-secret"\nadapters = ["sql"]\ntokens_per_minute = 1000\n'
    )
    file.chmod(0o600)
    html = keys(file)
    assert "very-secret" not in html
    for told in ("alice", "infer", "sql", "1,000", "any"):
        assert f">{told}<" in html
    assert "No key" in keys(None)
    assert "cannot read" in keys(tmp_path / "none")


@pytest.mark.parametrize("url", ["", "ftp://x", "nothing", "http://", "file:///etc/passwd"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="HOST:PORT"):
        Client(url)


@pytest.mark.parametrize(
    ("url", "key"), [("http://[", ""), ("http://127.0.0.1:99999", ""), ("http://127.0.0.1:9", "ключ\n")]
)
def test_no_address_and_no_key_is_more_than_a_sentence(url: str, key: str) -> None:
    with pytest.raises(PtuneError), Client(url, key) as client:
        client.models()


def test_a_server_that_is_away_is_told_in_a_sentence() -> None:
    with Client("http://127.0.0.1:9/v1") as client, pytest.raises(NoServerError, match="does not answer"):
        client.models()
    assert address(" http://127.0.0.1:9/v1/ ") == "http://127.0.0.1:9"


def test_what_is_zero_by_nature_is_left_out() -> None:
    load = Load(0, 0, 0.0, 1.5, None, 0.075, 0, 0, None, ())
    assert "tokens/s" in figures(load)
    told = figures(load, writes=False)
    assert not any(name in told for name in ("tokens/s", "adapter hits", "adapter reads"))
    assert "requests/s" in told
    assert "adapter reads" in figures(replace(load, reads=1_200), writes=False), "it has read some"
    cards: list[dict[str, str]] = [{"id": "a"}, {"id": "b", "endpoint": "/v1/classify"}]
    assert [writes_text(card) for card in cards] == [True, False]


def test_what_is_asked_of_each_endpoint_and_what_it_says() -> None:
    asked = {
        "/v1/classify": ({"scores": {"good": 0.75, "bad": 0.25}}, "good 75.0%, bad 25.0%"),
        "/v1/tag": ({"entities": [{"text": "Ada", "label": "PER"}]}, "Ada (PER)"),
        "/v1/embeddings": ({"embedding": [0.1, 0.2]}, "a vector of 2 numbers"),
        "/v1/translate": ({"text": "Hallo"}, "Hallo"),
    }
    for path, (item, told) in asked.items():
        found, body = request_of({"id": "mine", "endpoint": path}, "Ada")
        assert (found, body["model"]) == (path, "mine")
        assert "Ada" in str(body)
        assert said({"id": "mine"}, path, {"data": [item]}) == told
        scores = scores_of(path, {"data": [item]})
        assert scores == ({"good": 0.75, "bad": 0.25} if path == "/v1/classify" else None)
    with pytest.raises(UsageError, match="page"):
        request_of({"id": "mine", "endpoint": "/v1/recommend"}, "Ada")


def test_a_regressors_number_is_no_share() -> None:
    """One between 0 and 1 looked like a probability."""
    card, answer = {"id": "mine", "problem": "regression"}, {"data": [{"scores": {"quality": 0.4321}}]}
    assert said(card, "/v1/classify", answer) == "quality 0.4321"
    shown = bars(answer["data"][0]["scores"], numbers=gives_numbers(card))
    assert "0.4321" in shown
    assert "%" not in shown
    assert not gives_numbers({"id": "mine", "problem": "multi"})


@pytest.mark.parametrize(("alias", "share"), [("../x", 0.5), ("", 0.5), ("prod", 0.0), ("prod", 1.0)])
def test_what_is_no_alias_or_share_is_refused(alias: str, share: float) -> None:
    with pytest.raises(PtuneError):
        alias_body(alias, "mine", share)


def test_the_line_for_a_shell_never_shows_a_key() -> None:
    line = curl("http://127.0.0.1:1", "/v1/x", key=True, body={"text": "it's"})
    assert "Bearer KEY" in line
    assert """'{"text": "it'"'"'s"}'""" in line
    assert "-X POST" in curl("http://h", "/v1/aliases/prod/rollback", key=False)
