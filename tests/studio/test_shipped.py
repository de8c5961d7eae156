"""What a run can be exported to, and the commands that do it: the command line understands each of them."""

from __future__ import annotations

import inspect
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import tyro

from ptune.cli import add, export, push, speed
from ptune.cli.serve import Serve
from ptune.codecs import seq2seq
from ptune.config.chat import Chat
from ptune.config.classification import TextClassification
from ptune.config.recipe import Backbone, Recipe
from ptune.errors import UsageError
from ptune.studio.jobs.queue import Jobs
from ptune.studio.serve.servers import serve_command
from ptune.studio.ship.shipped import (
    Export,
    add_command,
    downloads,
    export_command,
    has_gguf,
    places,
    profiles,
    profiles_for,
    push_command,
    speed_command,
    speed_file,
)
from ptune.studio.workspace import Workspace

FIXTURE = Path(__file__).parents[1] / "fixtures" / "bundle-1"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def understood(function: Callable[..., Any] | type[Any], command: tuple[str, ...]) -> dict[str, Any]:
    """The arguments that a command's own parser reads."""
    found: dict[str, Any] = {}

    def kept(**arguments: Any) -> int:
        found.update(arguments)
        return 0

    if isinstance(function, type):
        return dict(vars(tyro.cli(function, args=list(command[2:]), config=(tyro.conf.AvoidSubcommands,))))
    kept.__signature__ = inspect.signature(function, eval_str=True)  # type: ignore[attr-defined]
    kept.__annotations__ = get_type_hints(function, include_extras=True)
    kept.__doc__ = function.__doc__
    tyro.cli(kept, args=list(command[2:]), config=(tyro.conf.AvoidSubcommands,))
    return found


def test_what_is_asked_of_an_export(workspace: Workspace) -> None:
    command = export_command(workspace, "mine", Export(("fp32", "int8"), int8_cache=True, merge=True))
    assert command[:3] == ("ptune", "export", "runs/mine")
    read = understood(export.export, command)
    assert (read["source"], read["out"], read["profiles"]) == ("runs/mine", Path("bundles/mine"), "fp32,int8")
    assert (read["kv_cache_dtype"], read["merge"], read["force"], read["gguf"]) == (
        "int8",
        True,
        False,
        False,
    )
    assert read["hop_log"] == Path(".studio/hops/mine.bundle.jsonl")
    workspace.bundle("mine").mkdir()
    assert understood(export.export, export_command(workspace, "mine", Export()))["force"]
    read = understood(
        export.export, export_command(workspace, "mine", Export(gguf=True, gguf_type="Q8_0", anyway=True))
    )
    assert (read["out"], read["gguf"], read["gguf_type"], read["anyway"]) == (
        Path("gguf/mine"),
        True,
        "Q8_0",
        True,
    )
    with pytest.raises(UsageError, match="no profile"):
        export_command(workspace, "mine", Export(()))


def test_a_server_beside_the_queue(workspace: Workspace) -> None:
    command = serve_command(Jobs(workspace), "mine", profile="int8", port=0, keys=" keys.toml ", page=False)
    read = understood(Serve, command)
    assert (read["bundle"], read["port"], read["ui"], read["adapters_api"]) == (
        Path("bundles/mine"),
        0,
        False,
        True,
    )
    assert (read["api_key_file"], read["engine"].profile) == (Path("keys.toml"), "int8")
    assert read["ready_file"] == Path(".studio/servers/00001.url")
    read = understood(
        Serve, serve_command(Jobs(workspace), "mine", profile=None, port=8000, keys="", page=True)
    )
    assert (read["port"], read["ui"], read["ui_port"], read["api_key_file"]) == (8000, True, 0, None)


def test_the_other_commands(workspace: Workspace) -> None:
    read = understood(speed.speed, speed_command(workspace, "mine"))
    assert (read["bundle"], read["out"]) == (Path("bundles/mine"), Path(".studio/speed/mine.json"))
    read = understood(add.add, add_command(workspace, "mine", "other", ""))
    assert (read["bundle"], read["adapter"], read["name"]) == (
        Path("bundles/mine"),
        Path("runs/other"),
        "other",
    )
    adapter = workspace.run("mine") / "adapter"
    adapter.mkdir(parents=True)
    (adapter / "adapter_config.json").write_text("{}")
    command = push_command(workspace, "adapter", "mine", " me/mine ", public=False, dry_run=True)
    read = understood(push.push, command)
    assert (read["place"], read["repository"], read["public"], read["dry_run"]) == (
        Path("runs/mine"),
        "me/mine",
        False,
        True,
    )


@pytest.mark.parametrize("repository", ["", "mine", "me/", "/mine", "a/b/c", "--public/x"])
def test_what_is_no_repository_is_refused(workspace: Workspace, repository: str) -> None:
    with pytest.raises(UsageError, match="OWNER/NAME"):
        push_command(workspace, "adapter", "mine", repository, public=False, dry_run=True)


@pytest.mark.parametrize("name", ["../out", "", "a/b", "-x"])
def test_what_is_no_name_reaches_no_command(workspace: Workspace, name: str) -> None:
    with pytest.raises(UsageError):
        export_command(workspace, name, Export())
    with pytest.raises(UsageError):
        speed_command(workspace, name)
    with pytest.raises(UsageError):
        serve_command(Jobs(workspace), name, profile=None, port=0, keys="", page=False)


def test_which_profiles_a_run_may_have(workspace: Workspace) -> None:
    for name, recipe in (
        ("chat", Recipe(task=Chat())),
        ("nf4", Recipe(task=Chat(), backbone=Backbone(quantize="nf4"))),
        ("labels", Recipe(task=TextClassification())),
    ):
        workspace.run(name).mkdir(parents=True)
        recipe.save(workspace.run(name) / "recipe.yaml")
    assert profiles_for(workspace, "chat") == ("fp32", "int8", "int4", "auto")
    assert profiles_for(workspace, "nf4") == ("fp32", "int8", "int4", "nf4", "auto")
    assert profiles_for(workspace, "labels") == ("fp32", "int8")
    assert (has_gguf(workspace, "chat"), has_gguf(workspace, "labels")) == (True, False)
    codec = workspace.run("chat") / "codec"
    codec.mkdir()
    (codec / seq2seq.FILE).write_text("{}")
    assert profiles_for(workspace, "chat") == ("fp32",)


def bundle(workspace: Workspace, name: str) -> Path:
    """A bundle of two profiles, as far as its files' sizes go."""
    folder = workspace.bundle(name)
    shutil.copytree(FIXTURE, folder)
    graphs = {}
    for profile, size in (("fp32", 4_200_000), ("int8", 1_100)):
        path = folder / "graphs" / profile / "model.onnx"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"0" * size)
        graphs[profile] = {"profile": profile, "files": {f"graphs/{profile}/model.onnx": ""}}
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest |= {"graphs": graphs, "default_profile": "int8"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_profiles_with_size_and_the_speed_of_this_very_bundle(workspace: Workspace) -> None:
    assert profiles(workspace, "mine") == ""
    folder = bundle(workspace, "mine")
    html = profiles(workspace, "mine")
    assert html.index("fp32") < html.index("4.2 MB") < html.index("int8") < html.index("1 kB")
    assert html.count("served by default") == 1
    assert "float32 only" in html
    file = speed_file(workspace, "mine")
    file.parent.mkdir()
    file.write_text(json.dumps({"profiles": {"fp32": {"per_s": 12.345, "unit": "tokens"}}}))
    assert "12.3 tokens/s" in profiles(workspace, "mine")
    later = file.stat().st_mtime + 10
    os.utime(folder / "manifest.json", (later, later))
    assert "12.3 tokens/s" not in profiles(workspace, "mine"), "it was exported again since"


def test_an_encoder_has_no_caches(workspace: Workspace) -> None:
    folder = bundle(workspace, "labels")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["signature"] = {"modality": "text", "sockets": []}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    html = profiles(workspace, "labels")
    assert "fp32" in html
    assert "caches" not in html
    assert "float32 only" not in html


def test_what_there_is_to_download(workspace: Workspace) -> None:
    assert downloads(workspace, "mine") == ""
    bundle(workspace, "mine")
    gguf = workspace.folder / "gguf" / "mine"
    gguf.mkdir(parents=True)
    for name in ("gguf.json", "base.gguf", "adapter.gguf", "Modelfile", "parity.json"):
        (gguf / name).write_text("{}")
    assert places(workspace, "mine") == ("bundle", "gguf")
    html = downloads(workspace, "mine")
    for address in ("bundle/mine", "gguf/mine/base.gguf", "gguf/mine/adapter.gguf", "gguf/mine/Modelfile"):
        assert f'href="studio/download/{address}"' in html
    assert " MB</span>" in html
