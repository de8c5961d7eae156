"""What leaves the studio, clicked in a real browser: adapters that come to a running server, canaries, bundles, downloads, a
push. Each mistake is a sentence on the page.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from support.browsing import NEEDS_BROWSER
from support.fake_chat_model import wait_until
from support.fake_hub import FakeHub, fake_hub
from support.shipped import GGUF, running, shipped
from support.studio_page import Opened, browser, opened

from ptune.studio.jobs.queue import Jobs
from ptune.studio.workspace import Workspace

pytestmark = [*NEEDS_BROWSER, pytest.mark.slow]
NOBODY = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def hub() -> Iterator[FakeHub]:
    with fake_hub() as found:
        yield found


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory, hub: FakeHub) -> Iterator[Opened]:
    folder = shipped(tmp_path_factory.mktemp("studio"))
    with pytest.MonkeyPatch.context() as environment, browser() as chromium:
        for name, value in (("HF_ENDPOINT", hub.url), ("HF_TOKEN", hub.token), ("HF_HUB_OFFLINE", "0")):
            environment.setenv(name, value)
        with opened(folder, chromium) as page:
            yield page


@pytest.fixture(scope="module")
def server(studio: Opened, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(studio.folder / "bundles" / "first", tmp_path_factory.mktemp("served")) as url:
        yield url


def ship(studio: Opened, run: str) -> None:
    studio.open("Ship")
    wait_until(lambda: studio.box("ship-run").input_value() != "")
    pick(studio, "ship-run", run)
    studio.page.locator(f'#ship-downloads a[href$="/adapter/{run}"]').wait_for()


def pick(studio: Opened, menu: str, value: str) -> None:
    """Chooses from a menu that takes nothing else."""
    if studio.box(menu).input_value() != value:
        studio.box(menu).click()
        studio.page.get_by_role("option", name=value, exact=True).click()
    wait_until(lambda: studio.box(menu).input_value() == value)


def served(url: str) -> list[str]:
    return [str(one["id"]) for one in httpx.get(f"{url}/v1/models").json()["data"]]


def test_an_adapter_comes_to_a_running_server(studio: Opened, server: str) -> None:
    ship(studio, "second")
    studio.unfold("ship-add")
    studio.press("Add")
    studio.says("add-told", "No server runs here")
    studio.choose("add-server", server)
    studio.press("Add")
    studio.says("add-told", "second is served, unmeasured")
    assert "second" in served(server)
    line = studio.page.locator("#ship-add .command textarea").input_value()
    assert line.startswith(f"curl -sS {server}/v1/adapters -F name=second -F files=@runs/second/adapter/")
    studio.press("Add")
    studio.says("add-told", "already")
    studio.box("add-name").fill("two words")
    studio.press("Add")
    studio.says("add-told", "two words")
    assert studio.page.locator("#add-told [role=alert]").count() == 1
    for address, told in ((NOBODY, "does not answer"), ("nowhere", "http://HOST:PORT")):
        studio.choose("add-server", address)
        studio.press("Add")
        studio.says("add-told", told)


def test_an_adapter_of_another_base_is_refused_in_a_sentence(studio: Opened, server: str) -> None:
    ship(studio, "foreign")
    studio.choose("add-server", server)
    studio.unfold("ship-add")
    studio.press("Add")
    wait_until(lambda: studio.page.locator("#add-told [role=alert]").count() == 1)
    told = studio.text("add-told")
    assert "foreign" not in served(server)
    assert "Traceback" not in told
    assert "base" in told
    studio.unfold("ship-beside")
    pick(studio, "beside-bundle", "first")
    studio.press("Add and prove")
    wait_until(lambda: studio.page.locator("#beside-told .bad").count() == 1)
    assert "base" in studio.text("beside-told")
    assert "Traceback" not in studio.text("beside-told")
    assert not (studio.folder / "bundles" / "first" / "adapters" / "foreign").exists()


def test_a_canary_gets_a_share_and_goes_again(studio: Opened, server: str) -> None:
    if "mild" not in served(server):
        ship(studio, "second")
        studio.unfold("ship-add")
        studio.choose("add-server", server)
        studio.box("add-name").fill("mild")
        studio.press("Add")
        studio.says("add-told", "mild is served")
    ship(studio, "first")
    studio.choose("add-server", server)
    studio.unfold("ship-canary")
    studio.says("canary-told", "There is no alias")
    studio.press("Point the alias")
    studio.says("canary-told", "cannot be a name")
    studio.box("canary-alias").fill("prod")
    studio.choose("canary-now", "first")
    studio.choose("canary-name", "nobody")
    studio.press("Point the alias")
    studio.says("canary-told", "nobody")
    assert studio.page.locator("#canary-told [role=alert]").count() == 1
    studio.choose("canary-name", "mild")
    studio.press("Point the alias")
    studio.says("canary-told", "prod", "first", "mild", "10%")
    [alias] = httpx.get(f"{server}/v1/aliases").json()["data"]
    assert (alias["name"], alias["canary"]["name"], alias["canary"]["share"]) == ("first", "mild", 0.1)
    studio.press("Roll back")
    wait_until(lambda: "mild" not in studio.text("canary-told"))
    assert httpx.get(f"{server}/v1/aliases").json()["data"][0].get("canary") is None
    studio.box("canary-alias").fill("unknown")
    studio.press("Roll back")
    studio.says("canary-told", "unknown")
    studio.choose("add-server", NOBODY)
    studio.says("canary-told", "does not answer")


def test_everything_is_downloaded_to_the_byte(studio: Opened) -> None:
    ship(studio, "first")
    adapter, bundle = studio.folder / "runs" / "first" / "adapter", studio.folder / "bundles" / "first"
    for name, folder, inside in (
        ("Adapter in PEFT's format (zip)", adapter, "first-adapter"),
        ("ONNX bundle (zip)", bundle, "first-bundle"),
    ):
        with zipfile.ZipFile(io.BytesIO(downloaded(studio, name))) as archive:
            assert archive.testzip() is None
            got = {entry: archive.read(entry) for entry in archive.namelist()}
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert got == {f"{inside}/{path.relative_to(folder)}": path.read_bytes() for path in files}
    assert downloaded(studio, "base.gguf") == GGUF
    ship(studio, "second")
    assert studio.page.locator("#ship-downloads a").all_inner_texts() == ["Adapter in PEFT's format (zip)"]
    for path in ("bundle/second", "adapter/nobody", "gguf/first/none.gguf", "weights/first"):
        answer = studio.page.request.get(f"{studio.url}/studio/download/{path}")
        assert answer.status == 404
        assert "Traceback" not in answer.text()


def downloaded(studio: Opened, name: str) -> bytes:
    with studio.page.expect_download() as downloading:
        studio.page.get_by_role("link", name=name, exact=True).click()
    return Path(downloading.value.path()).read_bytes()


def test_a_push_goes_up_when_it_is_asked_for_twice(studio: Opened, hub: FakeHub) -> None:
    ship(studio, "first")
    studio.unfold("ship-push")
    studio.press("Push")
    studio.says("push-told", "write OWNER/NAME")
    studio.box("push-repository").fill("me/tuned")
    studio.press("Push")
    studio.says("push-told", "nothing was uploaded to me/tuned")
    assert hub.commits == []
    studio.page.get_by_label("Only say what would go up").uncheck()
    line = studio.page.locator("#ship-push .command textarea")
    wait_until(lambda: line.input_value() == "ptune push runs/first me/tuned")
    studio.press("Push")
    studio.says("push-told", f"pushed: {hub.url}/me/tuned/commit/abc")
    [(_, files)] = hub.commits
    weights = studio.folder / "runs" / "first" / "adapter" / "adapter_model.safetensors"
    assert files["adapter_model.safetensors"] == weights.read_bytes()
    assert hub.repositories == {"me/tuned": True}
    ship(studio, "second")
    studio.unfold("ship-push")
    studio.page.get_by_label("bundle", exact=True).check()
    studio.box("push-repository").fill("me/tuned")
    studio.press("Push")
    studio.says("push-told", "there is no bundle 'second'")


def test_an_adapter_stands_beside_others_in_a_bundle(studio: Opened) -> None:
    ship(studio, "second")
    studio.unfold("ship-beside")
    pick(studio, "beside-bundle", "first")
    studio.box("beside-name").fill("twin")
    line = studio.page.locator("#ship-beside .command textarea")
    wait_until(lambda: line.input_value() == "ptune add bundles/first runs/second --name twin")
    studio.press("Add and prove")
    wait_until(
        lambda: (job := Jobs(Workspace(studio.folder)).newest("add", "second")) and job.state == "done"
    )
    studio.says("beside-told", "twin")
    assert (studio.folder / "bundles" / "first" / "adapters" / "twin" / "adapter.json").is_file()
    studio.press("Add and prove")
    studio.says("beside-told", "already")
