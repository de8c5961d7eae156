"""`ptune push` against a hub on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from support import chat_run
from support.bundles import tiny_bundle
from support.fake_hub import FakeHub, fake_hub
from support.tiny_models import build

from ptune.cli import main
from ptune.formats.bundle import VISION, hashes
from ptune.formats.run import Run


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with fake_hub() as hub:
        monkeypatch.setenv("HF_TOKEN", hub.token)
        yield hub


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("push")
    build(folder / "model")
    return chat_run.trained(folder)


def test_a_run(run: Run, hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(run.folder), "me/tuned", "--endpoint", hub.url, "--message", "first"]) == 0
    assert hub.repositories == {"me/tuned": True}
    [(message, files)] = hub.commits
    assert message == "first"
    weights = (run.adapter_path / "adapter_model.safetensors").read_bytes()
    assert files["adapter_model.safetensors"] == weights
    assert {"adapter_config.json", "ptune.json", "recipe.yaml", "README.md"} <= set(files)
    header = yaml.safe_load(files["README.md"].decode().split("---")[1])
    assert header["license"] == "apache-2.0"
    assert "`parity.json`" in files["README.md"].decode()
    said = capsys.readouterr().out
    assert f"pushed: {hub.url}/me/tuned/commit/abc" in said

    assert main(["push", str(run.folder), "me/tuned", "--endpoint", hub.url, "--public"]) == 0
    assert len(hub.commits) == 2  # the repository is there, and stays private
    assert hub.repositories == {"me/tuned": True}


def test_public_and_json(run: Run, hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(run.folder), "me/open", "--endpoint", hub.url, "--public", "--json"]) == 0
    assert hub.repositories == {"me/open": False}
    told = json.loads(capsys.readouterr().out)["result"]
    assert told["files"]["adapter_config.json"] == len(hub.commits[0][1]["adapter_config.json"])


def test_dry_run(run: Run, hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(run.folder), "me/tuned", "--endpoint", hub.url, "--dry-run"]) == 0
    assert not hub.repositories
    assert not hub.commits
    assert "adapter_model.safetensors" in capsys.readouterr().out


def test_a_bundle_and_a_damaged_one(tmp_path: Path, hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    _, _, bundle = tiny_bundle(tmp_path)
    assert main(["push", str(bundle.folder), "me/bundle", "--endpoint", hub.url]) == 0
    files = hub.commits[0][1]
    on_disk = {
        path.relative_to(bundle.folder).as_posix() for path in bundle.folder.rglob("*") if path.is_file()
    }
    assert set(files) == on_disk | {"README.md"}

    graph = bundle.folder / "graphs/fp32/model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"x")
    assert main(["push", str(bundle.folder), "me/bundle", "--endpoint", hub.url]) == 1
    assert "damaged" in capsys.readouterr().err
    assert len(hub.commits) == 1


def test_a_bundle_that_sees_images_goes_up_with_its_tower(tmp_path: Path, hub: FakeHub) -> None:
    _, _, bundle = tiny_bundle(tmp_path)
    (bundle.folder / "vision").mkdir()
    (bundle.folder / VISION).write_bytes(b"a graph")
    seeing = bundle.manifest.model_copy(update={"vision": hashes(bundle.folder, "vision")})
    bundle.write_manifest(seeing)
    assert main(["push", str(bundle.folder), "me/seeing", "--endpoint", hub.url]) == 0
    assert hub.commits[0][1][VISION] == b"a graph"


@pytest.mark.parametrize(
    ("written", "more", "library"),
    [("gguf.json", {"type": "Q8_0"}, "gguf"), ("genai.json", {}, "onnxruntime-genai")],
)
def test_an_export_for_another_engine(
    written: str, more: dict[str, str], library: str, tmp_path: Path, hub: FakeHub,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    place = tmp_path / "tuned"
    place.mkdir()
    (place / "weights.bin").write_bytes(b"weights")
    _, _, bundle = tiny_bundle(tmp_path / "of")
    base = bundle.manifest.base.model_dump(mode="json")
    record = {"format": 1, "base": base, "files": hashes(place), "versions": {}, "hops": [], **more}
    (place / written).write_text(json.dumps(record))
    assert main(["push", str(place), "me/other", "--endpoint", hub.url]) == 0
    files = hub.commits[0][1]
    assert set(files) == {"weights.bin", written, "README.md"}
    header = yaml.safe_load(files["README.md"].decode().split("---")[1])
    assert header["library_name"] == library

    (place / "weights.bin").write_bytes(b"others")
    assert main(["push", str(place), "me/other", "--endpoint", hub.url]) == 1
    assert "damaged" in capsys.readouterr().err
    assert len(hub.commits) == 1


@pytest.mark.parametrize(
    ("arguments", "token", "said", "code"),
    [
        (["me/tuned"], "hf_wrong", "does not let you write to me/tuned: log in with `hf auth login`", 1),
        (["not a name"], "hf_right", "'not a name' is no repository's name: write OWNER/NAME", 2),
    ],
)
def test_refusals(
    run: Run, hub: FakeHub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    arguments: list[str], token: str, said: str, code: int,
) -> None:  # fmt: skip
    monkeypatch.setenv("HF_TOKEN", token)
    assert main(["push", str(run.folder), *arguments, "--endpoint", hub.url]) == code
    assert said in capsys.readouterr().err
    assert not hub.commits


def test_no_hub_and_no_place(
    run: Run, tmp_path: Path, hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(run.folder), "me/tuned", "--endpoint", "http://127.0.0.1:9"]) == 1
    assert "http://127.0.0.1:9 cannot be reached" in capsys.readouterr().err
    assert main(["push", str(tmp_path), "me/tuned", "--endpoint", hub.url]) == 2
    assert "is neither a run, a bundle nor an export for another engine" in capsys.readouterr().err


def test_offline(
    run: Run, hub: FakeHub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert main(["push", str(run.folder), "me/tuned", "--endpoint", hub.url]) == 1
    assert "HF_HUB_OFFLINE is set" in capsys.readouterr().err
