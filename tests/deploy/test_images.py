"""The Dockerfile's images are built, and run as a container would be: what is in them, what they answer, how they end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.deploy_files import BUNDLE, CHAT
from support.image_builder import Builder, missing
from support.running_image import Image
from support.tiny_models import build, conversations, write_jsonl

LACKING = missing()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(5400),
    pytest.mark.skipif(LACKING is not None, reason=f"needs {LACKING}"),
]
SERVE_LIMIT_BYTES = 600_000_000


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builder]:
    builder = Builder(tmp_path_factory.mktemp("builder"))
    try:
        builder.make_base()
        yield builder
    finally:
        builder.remove()


@pytest.fixture(scope="module")
def serve(builder: Builder) -> Iterator[Image]:
    builder.build("serve")
    with builder.opened("serve") as image:
        yield image


def test_the_server_has_no_torch_and_is_small(serve: Image) -> None:
    for package in ("torch", "transformers", "peft", "gradio", "pyarrow"):
        assert not serve.has(package)
    assert serve.has("onnxruntime")
    size_bytes = serve.size_bytes()
    print(f"the image of the server: {size_bytes / 1e6:.0f} MB")
    assert size_bytes < SERVE_LIMIT_BYTES


def test_the_server_answers_without_writing_anywhere_and_ends_with_0(serve: Image) -> None:
    with serve.running(["--threads", "1"], mounts=[(BUNDLE, "/bundle", "ro")]) as server:
        server.wait_until_healthy()
        assert server.inside("id", "-u").stdout.strip() == serve.config["User"].split(":")[0]
        assert "NoNewPrivs:\t1" in server.inside("cat", "/proc/self/status").stdout
        assert server.inside("touch", "/tmp/written", "/bundle/written").stderr.count("Read-only") == 2
        answer = json.loads(server.ask("http://127.0.0.1:8000/v1/chat/completions", CHAT))
        assert answer["usage"]["completion_tokens"] == 5
        assert "ptune_num_requests_waiting 0.0" in server.ask("http://127.0.0.1:8000/metrics")
        code, said = server.stop(signal.SIGTERM)
    assert (code, "Serving base, tuned at" in said) == (0, True), said
    assert "Traceback" not in said
    assert "telemetry" not in said


def test_own_operators_are_in_the_server_and_are_used_where_the_processor_has_them(
    serve: Image,
) -> None:
    look = "import ptune_kernels as k, ptune.engine.kernels as e; print(k.kernel() == k.PLAIN or bool(e.kernels()))"
    with serve.running(mounts=[(BUNDLE, "/bundle", "ro")]) as server:
        server.wait_until_healthy()
        said = server.inside("python", "-c", look)
    assert said.stdout.strip() == "True", said.stderr


def test_a_bundle_that_is_not_there_is_one_line_and_an_exit_code(serve: Image) -> None:
    said = subprocess.run(serve.command([]), capture_output=True, text=True, timeout=120)
    assert said.returncode == 1
    assert "/bundle" in said.stderr
    assert "Traceback" not in said.stderr


def test_the_page_runs_without_a_server(builder: Builder) -> None:
    builder.build("page")
    with builder.opened("page") as image:
        assert not image.has("torch")
        with image.running(["http://127.0.0.1:8000"], tmp=True) as page:
            page.wait_until_healthy()
            assert "<html" in page.ask("http://127.0.0.1:7860/")
            code, said = page.stop(signal.SIGTERM)
    assert code == 0, said


def test_a_model_is_examined_trained_and_exported_by_the_image_that_trains(
    builder: Builder, tmp_path: Path
) -> None:
    builder.build("train")
    model = build(tmp_path / "work" / "model", "llama")
    write_jsonl(model.parent / "data.jsonl", conversations(24))
    with builder.opened("train") as image:
        uid, gid = map(int, image.config["User"].split(":"))
        for path in (model.parent, *model.parent.rglob("*")):
            os.chown(path, uid, gid)
        given = ["--backbone.model", "model", "--data.files", "data.jsonl"]
        steps = ["--train.max-steps", "3", "--train.batch-size", "4", "--out", "run"]
        for words in (
            ["doctor", "chat_lora", *given],
            ["train", "chat_lora", *given, *steps],
            ["export", "run", "--out", "bundle"],
        ):
            command = image.command(words, mounts=[(model.parent, "/work", "rw")], tmp=True)
            said = subprocess.run(command, capture_output=True, text=True, timeout=1800)
            assert said.returncode == 0, said.stdout + said.stderr
    assert (model.parent / "run" / "adapter" / "adapter_model.safetensors").is_file()
    assert (model.parent / "bundle" / "manifest.json").is_file()
    shutil.rmtree(model.parent)
