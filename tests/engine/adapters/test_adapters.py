"""Adapters as peft writes them: the same update as peft's, or refused with everything that is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft.tuners.tuners_utils import check_target_module_exists
from safetensors.torch import load_file, save_file
from support import tiny_models
from support.tiny_bundle import write_adapter
from transformers.pytorch_utils import Conv1D

from ptune.engine.adapters.lora import Adapter, load_adapter
from ptune.engine.adapters.peft_config import LoraConfig, read_config
from ptune.engine.adapters.source import Source
from ptune.engine.adapters.stacked import Stacks
from ptune.errors import AdapterError
from ptune.formats.signature import CacheLayer, EncoderSignature, Signature, Socket

Change = Callable[[dict[str, Any]], object]


def signature_of(model: torch.nn.Module) -> Signature:
    """Sockets of all linear layers but the head, as an exporter describes them."""
    sockets = []
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear | Conv1D) and name != "lm_head":
            n, m = layer.weight.shape if isinstance(layer, Conv1D) else reversed(layer.weight.shape)
            sockets.append(Socket(name=name, in_features=n, out_features=m))
    layer = CacheLayer(kv_heads=1, key_dim=1, value_dim=1)
    return Signature(vocab_size=600, context=512, cache=(layer,), sockets=tuple(sockets))


MODEL = tiny_models.model("llama")
SIGNATURE = signature_of(MODEL)
ENCODER = EncoderSignature(modality="text", sockets=SIGNATURE.sockets)
Q0 = "base_model.model.model.layers.0.self_attn.q_proj"


def saved(folder: Path, **options: Any) -> Path:
    write_adapter(folder, MODEL, seed=0, **{"r": 4, "target_modules": "all-linear", **options})
    return folder


def change_config(folder: Path, **fields: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def change_tensors(folder: Path, change: Change) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize(
    "options",
    [
        {"lora_alpha": 7},
        {"use_rslora": True, "lora_alpha": 5},
        {"target_modules": ["q_proj", "down_proj"], "layers_to_transform": [1]},
        {"target_modules": r".*\.1\..*(gate|up)_proj"},
        {
            "rank_pattern": {"q_proj": 2, r"layers\.\d+\.mlp\.up_proj": 7},
            "alpha_pattern": {"1.mlp.up_proj": 3},
        },
        {"rank_pattern": {"proj": 3, "o_proj": 9}, "use_rslora": True},
        {"exclude_modules": ["o_proj"], "fan_in_fan_out": False, "init_lora_weights": "gaussian"},
    ],
)
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_update_is_that_of_peft(tmp_path: Path, architecture: str, options: dict[str, Any]) -> None:
    """Every linear layer's x @ A @ B is the difference that peft's merge makes to its weight."""
    if architecture == "gpt2":
        options = {**options, "fan_in_fan_out": True}
        if "target_modules" in options:
            options["target_modules"] = ["c_attn", "mlp.c_proj"]
    model = tiny_models.model(architecture)
    merged = write_adapter(tmp_path, model, seed=1, **{"r": 4, "target_modules": "all-linear", **options})
    adapter = load_adapter(tmp_path, signature_of(model))
    changed = 0
    for socket in signature_of(model).sockets:
        before, after = (m.get_submodule(socket.name).weight.detach() for m in (model, merged))
        delta = (after - before).numpy()
        if socket.name in adapter.factors:
            a, b = adapter.factors[socket.name]
            found = a @ b if architecture == "gpt2" else (a @ b).T
            np.testing.assert_allclose(found, delta, atol=1e-5)
            changed += abs(delta).max() > 0.1
        else:
            assert abs(delta).max() == 0
    assert changed == len(adapter.factors) > 0
    assert adapter.rank == max(a.shape[1] for a, _ in adapter.factors.values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files(tmp_path: Path, dtype: torch.dtype) -> None:
    folder = saved(tmp_path)
    change_tensors(folder, lambda tensors: tensors.update({k: v.to(dtype) for k, v in tensors.items()}))
    expected = load_file(folder / "adapter_model.safetensors")[f"{Q0}.lora_A.weight"].float().numpy()
    a, _ = load_adapter(folder, SIGNATURE).factors[Q0.removeprefix("base_model.model.")]
    assert (expected == a.T).all()


def test_adapter_name_inside_keys(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    plain = load_adapter(folder, SIGNATURE)

    def rename(tensors: dict[str, Any]) -> None:
        for name in list(tensors):
            tensors[name.replace(".weight", ".default.weight")] = tensors.pop(name)

    change_tensors(folder, rename)
    named = load_adapter(folder, SIGNATURE)
    assert plain.factors.keys() == named.factors.keys()
    assert all(
        (a == named.factors[n][0]).all() and (b == named.factors[n][1]).all()
        for n, (a, b) in plain.factors.items()
    )


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"use_dora": True}, r"use_dora .* ptune merge"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save .* ptune merge"),
        ({"target_parameters": ["mlp.experts"]}, "target_parameters"),
        ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
        ({"lora_bias": True}, "lora_bias"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"peft_type": "IA3"}, "peft_type 'IA3'"),
        ({"r": 0}, "r is 0"),
        ({"r": "many"}, "r: .*integer"),
        ({"lora_alpha": float("nan")}, "lora_alpha: .*finite"),
        ({"rank_pattern": {"(": 3}}, "not a valid pattern"),
        ({"target_modules": ["q_proj"]}, "peft would ignore"),
        ({"r": 5}, r"lora_A is \[4, 64\], the base needs \[5, 64\]"),
    ],
)
def test_config_that_is_not_served_is_refused_by_name(
    tmp_path: Path, fields: dict[str, Any], words: str
) -> None:
    folder = saved(tmp_path)
    change_config(folder, **fields)
    with pytest.raises(AdapterError, match=words):
        load_adapter(folder, SIGNATURE)


def test_an_invocation_is_for_decoders(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    change_config(folder, alora_invocation_tokens=[5, 6])
    assert load_adapter(folder, SIGNATURE).invocation == (5, 6)
    _, problems = read_config(Source.folder(folder))
    assert len(problems) == 1
    assert "aLoRA acts on a part of a sequence only" in problems[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop(f"{Q0}.lora_B.weight"), "lora_B is missing: model.layers.0.self_attn.q_proj"),
        (lambda t: [t.pop(f"{Q0}.lora_{x}.weight") for x in "AB"], "their factors are missing: model.layers.0.self_attn.q"),
        (lambda t: t.update({f"{Q0}.lora_magnitude_vector": torch.ones(64)}), "DoRA magnitudes"),
        (lambda t: t.update({f"{Q0}.bias": torch.ones(64)}), "trained biases"),
        (lambda t: t.update({"base_model.model.model.embed_tokens.weight": torch.ones(9, 9)}), "no LoRA factors"),
        (lambda t: t.update({"base_model.model.lm_head.lora_A.weight": torch.ones(4, 64)}), "output head"),
        (lambda t: t.update({"base_model.model.x.lora_embedding_A": torch.ones(4, 64)}), "LoRA of an embedding"),
        (lambda t: t[f"{Q0}.lora_A.weight"].fill_(float("inf")), "not finite"),
        (lambda t: t.update({f"{Q0}.lora_A.other.weight": torch.ones(4, 64)}), "same factor twice"),
        (lambda t: t.clear(), "no LoRA factors"),
    ],
)  # fmt: skip
def test_tensors_that_are_not_served_are_refused_by_name(tmp_path: Path, change: Change, words: str) -> None:
    folder = saved(tmp_path)
    change_tensors(folder, change)
    with pytest.raises(AdapterError, match=words):
        load_adapter(folder, SIGNATURE)


def test_bias_option_without_bias_tensors_is_served(tmp_path: Path) -> None:
    assert load_adapter(saved(tmp_path, bias="lora_only"), SIGNATURE).rank == 4  # a Llama has no biases


def test_all_problems_are_in_one_error(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    change_config(folder, use_dora=True)

    def spoil(tensors: dict[str, Any]) -> None:
        del tensors[f"{Q0}.lora_B.weight"]
        tensors[f"{Q0.replace('q_proj', 'k_proj')}.lora_A.weight"] = torch.ones(4, 63)
        tensors["base_model.model.model.layers.7.mlp.up_proj.lora_A.weight"] = torch.ones(4, 64)

    change_tensors(folder, spoil)
    with pytest.raises(AdapterError) as caught:
        load_adapter(folder, SIGNATURE)
    for words in (
        "use_dora",
        "lora_B is missing",
        "[4, 63]",
        "no linear layer of this name: model.layers.7.mlp.up_proj",
    ):
        assert words in str(caught.value)


def test_pickle_is_refused_by_name(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(AdapterError, match=r"adapter_model\.bin, a pickle"):
        load_adapter(folder, SIGNATURE)


def test_folder_without_adapter(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"adapter_config\.json is missing"):
        load_adapter(tmp_path, SIGNATURE)


NAMES = [socket.name for socket in SIGNATURE.sockets] + [
    "model.layers.10.mlp.experts.1.up_proj",
    "q_proj",
    "proj",
]
PARTS = st.sampled_from(["q_proj", "proj", "mlp.up_proj", "model.layers.0.mlp.up_proj", "up_proj", "o_proj"])


@given(
    name=st.sampled_from(NAMES),
    targets=st.lists(PARTS, min_size=1) | st.sampled_from([r".*\.[qv]_proj", r".*layers\.0\..*", "proj"]),
    exclude=st.none() | st.lists(PARTS) | st.just(r".*up_proj"),
    layers=st.none() | st.integers(0, 1) | st.lists(st.sampled_from([0, 1, 10])),
    pattern=st.none() | st.sampled_from(["layers", "experts", ["h", "layers"]]),
)
def test_targets_are_those_of_peft(name: str, targets: Any, exclude: Any, layers: Any, pattern: Any) -> None:
    fields = {"target_modules": targets, "exclude_modules": exclude}
    if isinstance(targets, list) and layers is not None:
        fields |= {"layers_to_transform": layers, "layers_pattern": pattern}
    theirs = check_target_module_exists(peft.LoraConfig(**fields), name)
    assert LoraConfig(**fields).targets(name) == bool(theirs)


def test_stack_pads_adapters_and_keeps_them_apart() -> None:
    rng = np.random.default_rng(0)

    def adapter(name: str, rank: int, sockets: dict[Socket, int]) -> Adapter:
        factors = {
            socket.name: (
                rng.standard_normal((socket.in_features, r)).astype(np.float32),
                rng.standard_normal((r, socket.out_features)).astype(np.float32),
            )
            for socket, r in sockets.items()
        }
        return Adapter(name, rank, factors, 0)

    first, second = SIGNATURE.sockets[:2]
    one, two = adapter("one", 3, {first: 3, second: 1}), adapter("two", 2, {first: 2})
    stack = Stacks(ENCODER).of([two, one])
    assert stack.rank == 5
    for each in (one, two):
        part = stack.columns[each]
        for socket in SIGNATURE.sockets:
            a, b = stack.inputs[f"{socket.name}.A"][:, part], stack.inputs[f"{socket.name}.B"][part]
            assert a.shape == (socket.in_features, each.rank)
            assert b.shape == (each.rank, socket.out_features)
            expected = each.factors.get(socket.name)
            np.testing.assert_allclose(a @ b, 0 if expected is None else expected[0] @ expected[1], atol=1e-5)
    assert stack.columns[one] != stack.columns[two]


def test_stacks_are_kept_within_their_limit() -> None:
    some = [Adapter(str(n), 4, {}, 0) for n in range(5)]
    one = Stacks(ENCODER).of(some[:1]).bytes
    stacks = Stacks(ENCODER, limit_bytes=3 * one)
    first = stacks.of(some[:1])
    assert stacks.of(some[:1]) is first
    pair = stacks.of(some[1:2])  # takes the first along: it was used last, and the two are twice one
    assert (pair.rank, {*pair.columns}) == (8, {*some[:2]})
    assert stacks.of(some[:2]) is stacks.of(some[1:2]) is pair
    assert stacks.of(some[:1]) is first, "the narrowest that holds it"
    wide = stacks.of(some)  # larger than the limit, and still computed
    assert wide.rank == 20
    assert stacks.of(some[2:]) is wide
    assert stacks.of(some[:2]) is not wide, "more than twice as wide"
    assert stacks.of([]).rank == 0


def test_a_stack_without_one_of_its_adapters_is_not_built_upon() -> None:
    some = [Adapter(str(n), 4, {}, 0) for n in range(2)]
    stacks = Stacks(ENCODER)
    both = stacks.of(some)
    del some[1]
    assert both.incomplete
    assert {*both.columns} == {some[0]}
    assert stacks.of(some) is both  # what is there is still right
    assert stacks.of([Adapter("new", 4, {}, 0)]).rank == 4
