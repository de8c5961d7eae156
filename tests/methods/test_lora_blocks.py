"""LoRA for int4: an update of one number in a block is peft's QA-LoRA, and rounding a merged weight moves none of its codes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir
import pytest
import torch
from peft import PeftModel
from peft.tuners.lora.variants import QALoraLinearVariant
from support import tiny_models
from support.tiny_models import build, in_four_bits
from torch import nn

from ptune.backbone.load import load
from ptune.config.classification import TextClassification
from ptune.config.recipe import Backbone, Recipe, Train
from ptune.errors import RecipeError
from ptune.export import blocks
from ptune.export.decoder.int4 import write_int4
from ptune.export.merge import merged
from ptune.export.weights import ModelWeights
from ptune.export.write import write_bundle
from ptune.methods import lora_blocks
from ptune.methods.lora import Lora
from ptune.training.preparation import optimizer_for

IDS = torch.arange(5, 45).view(2, 20)


def trained(method: Lora, model: Any, optimizer: str = "adamw") -> PeftModel:
    """A few steps, as the loop takes them."""
    torch.manual_seed(0)
    adapted: Any = method.apply(model)
    chosen = optimizer_for(adapted, Train(lr=3e-3, optimizer=optimizer))  # type: ignore[arg-type]
    for step in range(1, 4):
        logits = adapted(IDS).logits
        nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten()).backward()
        chosen.step()
        method.after_update(adapted, step, 3)
        chosen.zero_grad()
    found: PeftModel = adapted
    return found


def factors(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: one.detach() for name, one in model.named_parameters() if ".lora_" in name}


def test_blocks_are_those_of_the_export() -> None:
    assert lora_blocks.BLOCK == blocks.BLOCK == 32


@pytest.mark.parametrize("optimizer", ["adafactor", "adamw", "adamw_8bit", "muon"])
def test_whatever_the_optimiser_a_block_stays_one_number(optimizer: str) -> None:
    found = factors(trained(Lora(r=4, merge_into="int4"), tiny_models.model("llama"), optimizer))
    first = {name: one for name, one in found.items() if ".lora_A." in name}
    assert all(one.norm() > 0 for one in found.values())
    for one in first.values():
        numbers = one.view(len(one), -1, 32)
        assert torch.equal(numbers, numbers[..., :1].expand_as(numbers))
        assert not torch.equal(numbers[:, 0], numbers[:, 1])


def test_output_and_gradients_are_those_of_pefts_qa_lora() -> None:
    """peft multiplies the means of three groups of 32 by three; here A repeats itself, which sums each group."""
    torch.manual_seed(0)
    small, b, x = torch.randn(4, 3), torch.randn(10, 4), torch.randn(5, 96)
    wide = nn.Parameter(small.repeat_interleave(32, dim=1))
    wide.register_hook(lora_blocks._means)
    theirs: Any = SimpleNamespace(
        lora_A={"x": nn.Linear(3, 4, bias=False)},
        lora_B={"x": nn.Linear(4, 10, bias=False)},
        lora_dropout={"x": nn.Identity()},
        scaling={"x": 2.0},
        qalora_group_size={"x": 32},
        training=False,
        in_features=96,
    )
    theirs.lora_A["x"].weight.data, theirs.lora_B["x"].weight.data = small, b
    there = QALoraLinearVariant.forward(theirs, "x", x, torch.zeros(5, 10))
    here = 2.0 * x @ wide.T @ b.T
    torch.testing.assert_close(here, 32 / 3 * there, rtol=1e-4, atol=1e-3)
    there.square().sum().backward()
    here.square().sum().backward()
    gradient = theirs.lora_A["x"].weight.grad
    assert wide.grad is not None
    turned = torch.nn.functional.cosine_similarity(wide.grad[:, ::32].flatten(), gradient.flatten(), dim=0)
    assert turned > 0.9999
    assert torch.equal(wide.grad, wide.grad[:, ::32].repeat_interleave(32, dim=1))


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("width", [64, 80])
def test_rounding_commutes_with_such_an_update(width: int, seed: int) -> None:
    """round(W + D) = round(W) + D, for weights of any kind; and not for an update that differs within blocks."""
    random = np.random.default_rng(seed)
    weight = random.standard_normal((24, width)).astype(np.float32)
    numbers = 0.02 * random.standard_normal((24, -(-width // 32)))
    update = np.repeat(numbers, 32, axis=1)[:, :width].astype(np.float32)
    alone, together = blocks.blocks_of(weight), blocks.blocks_of(weight + update)
    assert (alone.q != together.q).mean() < 1e-3  # those on the very edge between two codes
    lost = together.floats(width) - alone.floats(width) - update
    step = np.repeat(alone.scale, 32, axis=1)[:, :width]
    assert np.median(np.abs(lost) / step) < 1e-4
    any_update = (0.02 * random.standard_normal(weight.shape)).astype(np.float32)
    other = blocks.blocks_of(weight + any_update).floats(width) - alone.floats(width) - any_update
    assert np.linalg.norm(other) > 20 * np.linalg.norm(lost)


def codes(folder: Path, model: Any, codec: Any, identity: Any) -> tuple[dict[str, np.ndarray], float]:
    """The codes of each 4-bit product in an exported int4 graph, in order, without those of offsets; the share kept."""
    write_bundle(folder, model.config, ModelWeights(model), codec, identity)
    kept = write_int4(folder / "graphs/fp32/model.onnx", folder / "int4.onnx").kept
    graph = onnx_ir.load(folder / "int4.onnx").graph
    found = {}
    for name, value in graph.initializers.items():
        if name.endswith(".q4") and not name.startswith("int4.") and value.const_value is not None:
            packed = value.const_value.numpy()  # [out, blocks, 16]: offsets, then the weight's own
            found[name] = packed
    return found, kept


@pytest.mark.parametrize("method", [Lora(r=4), Lora(r=4, merge_into="int4")], ids=["plain", "int4"])
def test_an_exported_merge_has_the_codes_of_the_base(method: Lora, tmp_path: Path) -> None:
    base = in_four_bits(build(tmp_path / "base", "llama"))
    opened = load(Backbone(model=str(base), dtype="float32"))
    before, _ = codes(tmp_path / "before", opened.model, opened.codec, opened.identity)
    updated = trained(method, load(Backbone(model=str(base), dtype="float32")).model)
    wanted = {
        name: one.get_delta_weight("default").detach() + one.base_layer.weight.detach()
        for name, one in updated.named_modules()
        if hasattr(one, "lora_A")
    }
    plain: Any = merged(updated)[0]
    after, kept = codes(tmp_path / "after", plain, opened.codec, opened.identity)
    assert before.keys() == after.keys()
    same = [np.array_equal(after[name][:, -2:], before[name][:, -2:]) for name in before]
    if method.merge_into is None:
        assert kept < 0.5
        assert not all(same)
        return
    assert kept == 1
    assert all(same)
    for name, layer in plain.named_modules():
        if f"base_model.model.{name}" in wanted:
            there = wanted[f"base_model.model.{name}"].numpy()
            found = blocks.blocks_of(layer.weight.detach().numpy())
            off = np.abs(found.floats(there.shape[1]) - there).reshape(len(there), -1, 32).max(axis=-1)
            assert (off <= 1e-4 * found.scale + 1e-6).all()  # an offset of less than this is none


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"merge_into": "int8"}, "int8 keeps an update that was trained as ever: leave merge_into out"),
        ({"merge_into": "nf4"}, "a scale and no offset that an update could move: use int4"),
        ({"merge_into": "int3"}, "Input should be 'int4'"),
        ({"merge_into": "int4", "dora": True}, "merge_into 'int4' does not go with dora"),
        ({"merge_into": "int4", "ends": ("head",)}, "merge_into 'int4' does not go with ends"),
        ({"merge_into": "int4", "init": "pissa"}, "init 'pissa' begins with parts of the weights"),
    ],
)
def test_what_int4_cannot_hold_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Lora(**fields)


def test_other_tasks_have_no_int4() -> None:
    with pytest.raises(ValueError, match=r"is for chat and translation: no TextClassification"):
        Recipe(task=TextClassification(), method=Lora(merge_into="int4"))


def test_an_encoder_decoder_has_no_int4() -> None:
    from support.seq2seq_models import seq2seq

    with pytest.raises(RecipeError, match="an encoder-decoder is not exported in int4"):
        Lora(merge_into="int4").apply(seq2seq("t5"))
