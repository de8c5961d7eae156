"""`ptune serve --ray` as a command: its options, its config file, what it says without Ray, and how it ends."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from support.fake_chat_model import wait_until

from ptune import cli
from ptune.errors import UsageError
from ptune_serve.cluster.arguments import Arguments
from ptune_serve.cluster.launch import write_config


def test_a_config_file_holds_what_differs_from_the_defaults(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, bundle = tmp_path / "serve.yaml", tmp_path / "bundle"
    options = [
        "--replicas",
        "2:8",
        "--max-rows",
        "4",
        "--adapters-api",
        "--port",
        "9000",
        "--replica-cpus",
        "2",
    ]
    assert cli.main(["serve", str(bundle), "--write-config", str(file), *options]) == 0
    assert f"serve deploy {file}" in capsys.readouterr().out
    config = yaml.safe_load(file.read_text())
    assert config["http_options"] == {"host": "127.0.0.1", "port": 9000}
    [application] = config["applications"]
    assert application["import_path"] == "ptune_serve.cluster:app"
    assert application["args"] == {
        "bundle": str(bundle),
        "replicas": 2,
        "max_replicas": 8,
        "replica_cpus": 2.0,
        "engine": {"max_rows": 4},
        "settings": {
            "adapters_api": True,
            "max_adapter_bytes": 1_000_000_000,  # the command's default is another than the app's
            "hosts": ["127.0.0.1", "[::1]", "localhost"],  # as it is for this machine alone, and has no keys
        },
    }
    arguments = Arguments.read(application["args"])
    assert arguments.engine_options().max_rows == 4
    assert arguments.engine_options().threads == 2, "as many as a replica has cores"
    assert arguments.served_settings().adapters_api


def test_paths_in_a_config_file_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = Arguments(
        bundle=Path("b"),
        api_key_file=Path("keys"),
        engine={"draft_model": "small"},
        settings={"adapter_root": "lora"},
    )
    assert arguments.engine_options().draft_model == Path("small")
    write_config(arguments, tmp_path / "serve.yaml", "127.0.0.1", 8000)
    args = yaml.safe_load((tmp_path / "serve.yaml").read_text())["applications"][0]["args"]
    assert args == {
        "bundle": str(tmp_path / "b"),
        "api_key_file": str(tmp_path / "keys"),
        "engine": {"draft_model": str(tmp_path / "small")},
        "settings": {"adapter_root": str(tmp_path / "lora")},
    }


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"bundle": "b", "replica": 2}, "args.replica"),
        ({"bundle": "b", "replicas": 3, "max_replicas": 2}, "max_replicas must be 3 or more (is 2)"),
        ({"bundle": "b", "engine": {"rows": 2}}, "there is no option 'rows'"),
        ({"bundle": "b", "engine": {"max_rows": "2"}}, "max_rows must be of type int (is '2')"),
        ({"bundle": "b", "settings": {"adapters_api": "yes"}}, "adapters_api must be of type bool"),
        ({}, "args.bundle"),
    ],
)
def test_a_wrong_config_is_refused_by_its_field(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as raised:
        Arguments.read(given)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--replicas", "none"], "--replicas 'none'"),
        (["--replicas", "8:2"], "--replicas '8:2'"),
        (["--files", "x"], "--files works within one server"),
    ],
)
def test_options_that_cannot_be(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", "bundle", "--ray", *options]) == 2
    assert said in capsys.readouterr().err


def test_without_ray_one_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "ptune_serve.cluster.launch.find_spec", lambda name: None if name.startswith("ray") else found(name)
    )
    assert cli.main(["serve", "bundle", "--ray"]) == 2
    error = capsys.readouterr().err
    assert "pip install 'ptune[serve,ray]'" in error
    assert error.count("\n") == 1


def test_a_server_of_one_machine_does_not_import_ray() -> None:
    code = "import sys, ptune_serve.lifecycle, ptune.cli.serve, ptune_serve.cluster.launch; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_ctrl_c_ends_it_cleanly(tmp_path: Path) -> None:
    """A cluster of its own comes with the command, and nothing of it is left."""
    from support.living_adapters import living

    living(tmp_path)
    ready = tmp_path / "ready"
    command = [
        sys.executable,
        "-m",
        "ptune",
        "serve",
        str(tmp_path / "bundle"),
        "--ray",
        "--replica-cpus",
        "0",
    ]
    command += ["--port", "0", "--no-ui", "--kv-gb", "0.1", "--ready-file", str(ready)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        wait_until(lambda: ready.exists() or process.poll() is not None, 300)
        assert process.poll() is None, process.communicate()[0]
        url = ready.read_text().strip()
        body = {"model": "wide", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
        assert httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60).status_code == 200
        host = httpx.get(f"{url}/v1/models", headers={"host": "elsewhere.example"})
        assert host.json()["error"]["code"] == "unknown_host"
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, said
    assert f"Serving {tmp_path / 'bundle'} with 1 replica at {url}/v1" in said
    assert "Traceback" not in said
    assert not ready.exists()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health")
