"""`ptune verify --url` against llama-server, the one inside the xllamacpp wheel: four verdicts."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from support import gguf_file
from support.bundles import peft_folder
from support.fake_chat_model import wait_until
from support.tiny_models import CHATML, build

from benchmarks.gguf_files import write_lora
from ptune.cli import main
from ptune.config.recipe import Backbone
from ptune.formats.parity_json import write_parity
from ptune.publish.decoder_run import reference
from ptune.verify.parity_reference import measured, prompts_of

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None,
    reason="llama-server is not installed: pip install xllamacpp",
)
SERVER = """
import json, sys, xllamacpp
said = json.loads(sys.argv[1])
parameters = xllamacpp.CommonParams()
parameters.model.path = said["model"]
parameters.n_parallel, parameters.n_ctx = 1, 512
parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
parameters.verbosity, parameters.ui, parameters.use_jinja = -1, False, True
if said["template"]:
    parameters.chat_template = said["template"]
if said["lora"]:
    parameters.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(said["lora"], said["scale"])]
server = xllamacpp.Server(parameters)
print(server.listening_address, flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def llama_server(model: Path, lora: Path | None, *, scale: float = 1.0, template: str = "") -> Iterator[str]:
    said = {"model": str(model), "lora": str(lora or ""), "scale": scale, "template": template}
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, json.dumps(said)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        url = url if url.startswith("http") else f"http://{url}"
        wait_until(lambda: process.poll() is not None or _ready(url))
        assert process.poll() is None
        yield url
    finally:
        process.kill()
        process.wait()


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter's folder with its parity.json, and base and adapter as GGUF files in float32."""
    folder = tmp_path_factory.mktemp("llama")
    base = build(folder / "model", "llama")
    gguf_file.write(folder / "base.gguf")
    adapter = peft_folder(base, folder / "adapter", spread=0.15)
    write_lora(adapter, folder / "base.gguf", folder / "adapter.gguf")
    loaded = reference(Backbone(model=str(base)))
    parity = measured(loaded.model, adapter, loaded.codec, loaded.identity, prompts_of(loaded.codec, []))
    assert parity is not None
    write_parity(adapter, parity)
    return folder


@pytest.mark.parametrize(
    ("lora", "options", "kind"),
    [
        (True, {}, "right"),
        (False, {}, "adapter not applied"),
        (True, {"scale": 2.0}, "wrong scale"),
        (True, {"template": CHATML.replace("assistant\n", "helper: ")}, "wrong template"),
    ],
    ids=["right", "missing", "doubled", "templated"],
)
def test_four_verdicts(
    place: Path, lora: bool, options: dict[str, object], kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with llama_server(place / "base.gguf", place / "adapter.gguf" if lora else None, **options) as url:  # type: ignore[arg-type]
        code = main(["verify", str(place / "adapter"), "--url", url])
    said = capsys.readouterr().out
    print(said)
    assert f"verdict: {kind}\n" in said
    assert code == (0 if kind == "right" else 1)
