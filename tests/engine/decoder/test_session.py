"""Loading and binding: idle slots stay untouched, wrong graphs are refused, and how many cores there are."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from packaging.requirements import Requirement

from ptune.engine.decoder.cache.kv_cache import KvCache
from ptune.engine.decoder.graphs import Graphs
from ptune.engine.decoder.inputs.batch_layout import BatchLayout, Demands
from ptune.engine.decoder.inputs.lora_slots import LoraSlots
from ptune.engine.decoder.sequence import Chunk, TokenSequence
from ptune.engine.decoder.session import Session
from ptune.engine.decoder.step import Step
from ptune.engine.onnx_graph import Array, _cgroup_cores, check_onnxruntime
from ptune.errors import FormatError, PtuneError
from ptune.formats.bundle import Bundle
from ptune.formats.signature import STEP_INPUTS, Signature

if TYPE_CHECKING:
    from support.tiny_bundle import TinyBundle

ROOT = Path(__file__).parents[3]


def row(slot: int, tokens: list[int]) -> TokenSequence:
    made = TokenSequence(tokens)
    made.slot = slot
    return made


def inputs_of(chunks: list[Chunk], low: int, batch: int, capacity: int) -> dict[str, Array]:
    """Of a step without adapters."""
    window = LoraSlots(Signature(vocab_size=1, context=1, cache=(), sockets=()), 1).of([])
    arranged = BatchLayout(chunks, window, Demands(1, 2, None, capacity))
    assert arranged.slots == range(low, low + batch)
    inputs, grouped = arranged.inputs(chunks)
    assert not grouped
    return inputs


def test_step_inputs_of_a_ragged_step() -> None:
    """Slot 2 computes three tokens from the start, slot 4 its fifth; slot 3 between them is idle."""
    chunks = [Chunk(row(4, [50, 51, 52, 53, 54]), 4, 1), Chunk(row(2, [20, 21, 22, 23]), 0, 3)]
    inputs = inputs_of(chunks, 2, 3, 32)
    assert {*inputs} == {*STEP_INPUTS}
    expected = {
        "input_ids": [[54, 20, 21, 22]],
        "position_ids": [[4, 0, 1, 2]],
        "pad_indices": [[1, 2, 3], [0, 0, 0], [0, 0, 0]],
        "unpad_indices": [6, 0, 1, 2],
        "seqlens_k": [2, 0, 5],
        "query_seqlens": [3, 0, 2],  # never one query alone
        "capacity": 32,
        "logits_indices": [0],  # slot 2 has a token left, so only slot 4 is at its newest
        "lora_mask": [[[], [], [], []]],  # no adapter: rank 0
    }
    assert {name: array.tolist() for name, array in inputs.items()} == expected
    assert {array.dtype.name for array in inputs.values()} == {"int64", "int32", "float32"}


def test_one_token_is_two_queries() -> None:
    inputs = inputs_of([Chunk(row(0, [7, 8]), 1, 1)], 0, 1, 9)
    assert inputs["input_ids"].tolist() == [[8]]
    assert inputs["position_ids"].tolist() == [[1]]
    assert (inputs["pad_indices"].tolist(), inputs["unpad_indices"].tolist()) == ([[0, 0]], [0])
    assert (inputs["logits_indices"].tolist(), inputs["lora_mask"].shape) == ([0], (1, 1, 0))


def test_slots_without_a_chunk_stay_bit_identical(tiny: TinyBundle) -> None:
    bundle = Bundle.open(tiny.folder)
    signature = bundle.decoder
    cache = KvCache(signature, slots=5, capacity=32)
    rng = np.random.default_rng(0)
    for array in cache.window(0, 5).values():
        array[:] = rng.standard_normal(array.shape)
    before = {name: array.copy() for name, array in cache.window(0, 5).items()}
    step = Step(Graphs(Session(bundle.graph_path(), signature, 1)), signature, cache)
    step([Chunk(row(1, [5, 6, 7]), 0, 3), Chunk(row(3, [8]), 0, 1)])
    for name, array in cache.window(0, 5).items():
        assert (array[[0, 2, 4]] == before[name][[0, 2, 4]]).all()
        assert (array[1, :, :3] != before[name][1, :, :3]).all()
        assert (array[1, :, 3:] == before[name][1, :, 3:]).all()
        assert (
            array[3, :, 2:] == before[name][3, :, 2:]
        ).all()  # the place beyond a single token is its copy's


def test_graph_of_another_signature_is_refused(tiny: TinyBundle) -> None:
    bundle = Bundle.open(tiny.folder)
    signature = bundle.decoder
    fewer = signature.model_copy(update={"sockets": signature.sockets[1:]})
    with pytest.raises(
        FormatError, match=r"the inputs of its manifest's signature; .*0\.self_attn\.q_proj\.A"
    ):
        Session(bundle.graph_path(), fewer, 1)


def test_damaged_graph_is_a_format_error(tiny: TinyBundle, tmp_path: Path) -> None:
    bundle = Bundle.open(tiny.folder)
    (tmp_path / "model.onnx").write_bytes(bundle.graph_path().read_bytes()[:5000])
    with pytest.raises(FormatError, match="cannot be loaded"):
        Session(tmp_path / "model.onnx", bundle.decoder, 1)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "400000 100000\n"}, 4),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_cgroup_quota(tmp_path: Path, files: dict[str, str], cores: int | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert _cgroup_cores(tmp_path) == cores


@pytest.mark.parametrize("version", ["1.31.1", "1.9.0", "0.99"])
def test_an_older_onnxruntime_is_one_sentence(
    tiny: TinyBundle, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setattr("onnxruntime.__version__", version)
    bundle = Bundle.open(tiny.folder)
    with pytest.raises(
        PtuneError, match=r"1\.32 or later: pip install --upgrade 'onnxruntime>=1\.32'"
    ) as caught:
        Session(bundle.graph_path(), bundle.decoder, 1)
    assert str(caught.value).startswith(f"onnxruntime {version} is installed")


@pytest.mark.parametrize("version", ["1.32.0", "1.40.0.dev20270101001", "2.0.0"])
def test_a_newer_onnxruntime_is_taken(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr("onnxruntime.__version__", version)
    check_onnxruntime()


def test_the_package_asks_for_the_same_onnxruntime() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [one for packages in project["optional-dependencies"].values() for one in packages]
    assert {one for one in extras if Requirement(one).name == "onnxruntime"} == {"onnxruntime>=1.32"}
