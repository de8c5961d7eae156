"""Packed weights of large models are kept on disk: the same model the second time, and never a damaged one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support import gguf_file, tiny_models

from ptune.backbone import packed_cache
from ptune.backbone.load import load
from ptune.backbone.quantize import Int8Linear, Nf4Linear
from ptune.config.recipe import Backbone

IDS = torch.arange(5, 45)[None]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(packed_cache, "WORTH_BYTES", 0)
    monkeypatch.setattr(packed_cache, "_SHARD_BYTES", 1 << 15)
    return tmp_path / "cache" / "weights"


@pytest.fixture
def quantised(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows with every layer that is quantised."""
    layers: list[str] = []
    for kind in (Nf4Linear, Int8Linear):

        def counted(self: Any, weight: torch.Tensor, own: Any = kind.pack) -> torch.nn.Parameter:
            layers.append("")
            packed: torch.nn.Parameter = own(self, weight)
            return packed

        monkeypatch.setattr(kind, "pack", counted)
    return layers


def kept(cache: Path) -> list[Path]:
    return sorted(path for path in cache.iterdir() if path.is_dir())


@pytest.mark.parametrize("kind", ["nf4", "int8"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["llama_tied", "qwen2", "qwen3_moe"])
def test_a_model_is_quantised_once(
    tmp_path: Path, cache: Path, quantised: list[str], family: str, dtype: Any, kind: Any
) -> None:
    model = tiny_models.model(family).bfloat16()
    model.generation_config.max_length = 77
    model.save_pretrained(tmp_path / "model")
    tiny_models.tokenizer().save_pretrained(tmp_path / "model")
    spec = Backbone(model=str(tmp_path / "model"), quantize=kind, dtype=dtype)
    fresh = load(spec.model_copy(update={"cache": False}))
    first = load(spec)
    count = len(quantised)
    assert count > 0
    second = load(spec)
    assert len(quantised) == count
    assert second.identity == first.identity == fresh.identity
    with torch.no_grad():
        assert torch.equal(fresh.model(IDS).logits, second.model(IDS).logits)
        assert torch.equal(first.model(IDS).logits, second.model(IDS).logits)
    assert second.model.config.to_dict() == first.model.config.to_dict()
    assert second.model.generation_config.to_dict() == first.model.generation_config.to_dict()
    assert second.codec.eos_ids == first.codec.eos_ids
    assert {name: type(layer) for name, layer in first.model.named_modules()} == {
        name: type(layer) for name, layer in second.model.named_modules()
    }
    on_disk = sum(file.stat().st_size for file in kept(cache)[0].glob("*.safetensors"))
    state = first.model.state_dict(keep_vars=True)
    in_memory = sum(one.nbytes for one in {id(tensor): tensor for tensor in state.values()}.values())
    halved = 2 if dtype == "float32" else 1  # published in bfloat16, so float32 holds nothing more
    plain = sum(one.nbytes for one in first.model.parameters() if one.is_floating_point() and one.ndim > 1)
    assert on_disk < in_memory - plain + plain / halved + 32768


def test_what_was_quantised_is_a_view_of_the_kept_files(tmp_path: Path, cache: Path) -> None:
    """From the first command on: the system may take its memory back."""
    folder = tiny_models.build(tmp_path / "model", "llama")
    spec = Backbone(model=str(folder), quantize="nf4", dtype="float32")
    model = load(spec).model
    lines = [line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines()]
    places = [
        range(*(int(end, 16) for end in line[0].split("-")))
        for line in lines
        if line[-1].startswith(str(cache))
    ]
    layers = [layer for layer in model.modules() if isinstance(layer, Nf4Linear)]
    assert layers
    assert all(any(layer.weight.data_ptr() in place for place in places) for layer in layers)


def test_a_gguf_file(tmp_path: Path, quantised: list[str]) -> None:
    gguf_file.write(tmp_path / "tiny.gguf")
    spec = Backbone(model=str(tmp_path / "tiny.gguf"), quantize="nf4", dtype="float32")
    first, count = load(spec), len(quantised)
    second = load(spec)
    assert (second.identity, len(quantised)) == (first.identity, count)


def test_another_base_is_another_result(tmp_path: Path, cache: Path, quantised: list[str]) -> None:
    folder = tiny_models.build(tmp_path / "model", "llama")
    spec = Backbone(model=str(folder), quantize="nf4", dtype="float32")
    hashes = {load(spec).identity.hash}
    hashes.add(load(spec.model_copy(update={"dtype": "bfloat16"})).identity.hash)
    tiny_models.build(folder, "llama", seed=1)
    hashes.add(load(spec).identity.hash)
    assert len(hashes) == 3
    assert len(kept(cache)) == 2  # the most recently used


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "record"])
def test_damage_is_noticed(
    tmp_path: Path, cache: Path, quantised: list[str], capsys: Any, damage: str
) -> None:
    spec = Backbone(model=str(tiny_models.build(tmp_path / "model", "llama")), quantize="nf4")
    identity, count = load(spec).identity, len(quantised)
    (place,) = kept(cache)
    shard = max(place.glob("*.safetensors"), key=lambda file: file.stat().st_size)
    whole = shard.read_bytes()
    shard.unlink()  # what was loaded is a view of it
    flipped = whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:]
    shard.write_bytes({"flipped": flipped, "cut": whole[:-50], "empty": b"", "record": whole}[damage])
    if damage == "record":
        (place / "packed.json").write_text(json.dumps({"kept": []}))
    capsys.readouterr()
    assert load(spec).identity == identity
    assert f"{place} cannot be used and is made anew" in " ".join(capsys.readouterr().err.split())
    assert len(quantised) == 2 * count
    load(spec)
    assert len(quantised) == 2 * count, "it is whole again"


def test_nothing_is_kept_on_request_or_of_small_models(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = Backbone(model=str(tiny_models.build(tmp_path / "model", "llama")), quantize="nf4")
    load(spec.model_copy(update={"cache": False}))
    monkeypatch.setattr(packed_cache, "WORTH_BYTES", 1 << 30)
    load(spec)
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, cache: Path, capsys: Any) -> None:
    cache.parent.mkdir()
    cache.write_text("in the way")
    spec = Backbone(model=str(tiny_models.build(tmp_path / "model", "llama")), quantize="nf4")
    assert load(spec).identity.hash
    assert "nothing is kept in" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_peak_of_quantising_is_forgotten(tmp_path: Path) -> None:
    """A run shows its peak beside the planned one, which is of its steps."""

    def peak_bytes() -> int:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.split("VmHWM:")[1].split()[0]) * 1024

    tiny_models.model("llama_tied").bfloat16().save_pretrained(tmp_path / "model")
    tiny_models.tokenizer().save_pretrained(tmp_path / "model")
    held = torch.ones(100_000_000)  # 400 MB, as mapped files would be
    del held
    before = peak_bytes()
    load(Backbone(model=str(tmp_path / "model"), quantize="nf4"))
    assert before - peak_bytes() > 300e6
