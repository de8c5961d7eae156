"""A tiny chat bundle that can be served, PEFT folders to add to it, and what transformers says of them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from ptune.codecs.chat import ChatCodec
from ptune.formats.bundle import Bundle
from ptune.formats.whole_write import sha256_of
from support import tiny_models
from support.fake_chat_model import wait_until
from support.http_client import Client, Response
from support.tiny_bundle import TinyBundle, make, write_adapter

TEMPLATE = "{% for message in messages %}{{ message.content }} {% endfor %}"
LORA: dict[str, Any] = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj", "down_proj"]}
PROMPT = [5, 17, 99, 23, 300, 41]


@dataclass
class Living:
    """A bundle and a place for PEFT folders, which need not be in it."""

    tiny: TinyBundle
    outside: Path
    folders: dict[str, Path] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.tiny.folder

    def adapter(self, name: str, seed: int, **options: Any) -> Path:
        """A PEFT folder with random factors, which plain peft saved."""
        folder = self.outside / name
        model = write_adapter(folder, self.tiny.models["base"], seed=seed, **{**LORA, **options})
        self.tiny.models[name] = model
        self.folders[name] = folder
        return folder

    def greedy(self, name: str, tokens: int = 6) -> list[int]:
        """What transformers continues PROMPT with."""
        return self.tiny.greedy(PROMPT, name, tokens)


def living(folder: Path) -> Living:
    tiny = make(folder / "bundle")
    bundle = Bundle.open(tiny.folder)
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    codec = ChatCodec(tiny_models.tokenizer().backend_tokenizer, TEMPLATE, special, {2}, 512)
    codec.save(bundle.codec_path)
    files = {f"codec/{file.name}": sha256_of(file) for file in bundle.codec_path.iterdir()}
    golden = bundle.folder / "golden" / "golden.json"
    golden.parent.mkdir()
    golden.write_text('{"cases": []}')
    vouched = {"golden/golden.json": sha256_of(golden)}
    bundle.write_manifest(bundle.manifest.model_copy(update={"codec": files, "golden": vouched}))
    (folder / "outside").mkdir()
    return Living(tiny, folder / "outside")


def upload(http: Client, folder: Path, name: str, **fields: str) -> Response:
    """POST /v1/adapters with the files of a PEFT folder."""
    return http.post("/v1/adapters", data={"name": name, **fields}, files=peft_files(folder))


def peft_files(folder: Path) -> list[tuple[str, tuple[str, bytes]]]:
    """The form's files."""
    sent = ("adapter_config.json", "adapter_model.safetensors", "tokenizer.json")
    names = [file for file in sent if (folder / file).exists()]
    return [("files", (file, (folder / file).read_bytes())) for file in names]


def completed(http: Client, model: str, tokens: int = 6, **fields: Any) -> Response:
    """A greedy continuation of PROMPT, end-of-sequence or not."""
    body = {
        "model": model,
        "prompt": PROMPT,
        "temperature": 0,
        "max_tokens": tokens,
        "return_token_ids": True,
    }
    return http.post("/v1/completions", json=body | fields)


def token_ids(response: Response) -> list[int]:
    assert response.status_code == 200, response.text
    ids: list[int] = response.json()["choices"][0]["token_ids"]
    return ids


class Process:
    """`ptune serve` as a process of its own."""

    def __init__(self, bundle: Path, ready: Path, *options: str) -> None:
        command = [
            sys.executable,
            "-m",
            "ptune",
            "serve",
            str(bundle),
            "--port",
            "0",
            "--no-ui",
            "--threads",
            "1",
        ]
        command += [
            "--kv-gb",
            "0.05",
            "--max-rows",
            "4",
            "--ready-file",
            str(ready),
            "--adapters-api",
            *options,
        ]
        self.said = ready.with_suffix(".said")
        ready.unlink(missing_ok=True)
        with self.said.open("w") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out)
        wait_until(lambda: ready.exists() or self.process.poll() is not None)
        assert ready.exists(), self.said.read_text()
        self.http = httpx.Client(base_url=ready.read_text().strip(), timeout=60)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()
        self.http.close()
