"""The ledger against bytes that are there: of real weights, of a real step on real tensors, of a real allocator."""

from __future__ import annotations

import subprocess
import sys
from array import array
from pathlib import Path

import pytest
import torch
from support import gguf_file, tiny_models
from support.tiny_models import FAMILIES
from torch import nn

from ptune.backbone.load import load
from ptune.backbone.quantize import Nf4Linear
from ptune.config.optimizers import OPTIMIZERS
from ptune.config.recipe import Backbone, Recipe, Train
from ptune.methods.full import Full
from ptune.methods.lora import Lora
from ptune.planning import heap_replay, predict
from ptune.planning.files import describe
from ptune.planning.prediction import _RUNTIME, largest, planned_dtype
from ptune.planning.skeleton import skeleton
from ptune.planning.step import Part, Work, follow
from ptune.planning.storage import GIVEN_BACK, StorageTracker
from ptune.training.loss.head import plain_head
from ptune.training.loss.next_token import NextTokenObjective
from ptune.training.preparation import applied, optimizer_for
from ptune.training.rows.packing import Batch
from ptune.training.rows.segments import packing

from .conftest import Make

LENGTHS = [200, 120, 90, 60]


def stored_bytes(tensors: list[torch.Tensor]) -> int:
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_standing_parts_are_exact(make: Make, name: str) -> None:
    recipe = make(rank=64, optimizer=name)
    ledger = predict(recipe, LENGTHS, device="cpu")
    model = applied(recipe, load(recipe.backbone, device="cpu").model)
    trained = [p for p in model.parameters() if p.requires_grad]
    frozen = [p for p in model.parameters() if not p.requires_grad]
    assert ledger.weights == stored_bytes([*frozen, *model.buffers()])
    assert ledger.adapter == stored_bytes(trained)
    optimizer = optimizer_for(model, recipe.train)
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    state = [v for entry in optimizer.state.values() for v in entry.values() if isinstance(v, torch.Tensor)]
    assert ledger.optimiser == stored_bytes(state)


def test_loading_weights_as_they_are_takes_them_alone(make: Make, tmp_path: Path) -> None:
    """Those of a safetensors file are views of it; those of a GGUF file are unpacked beside it, the largest with a copy."""
    recipe = make()
    loaded = load(recipe.backbone, device="cpu").model
    weights = [weight.numel() for weight in loaded.parameters()]
    gguf_file.write(tmp_path / "model.gguf", model=loaded)
    unpacked = recipe.model_copy(
        update={"backbone": Backbone(model=str(tmp_path / "model.gguf"), dtype="float32")}
    )
    mapped, beside = (predict(one, LENGTHS, device="cpu").loading for one in (recipe, unpacked))
    plain = predict(recipe, LENGTHS, device="cuda")
    assert plain.main_memory == mapped
    assert mapped - plain.loading == 56 * 2**20  # code and objects, in main memory alone
    assert plain.loading == stored_bytes([*loaded.parameters(), *loaded.buffers()])
    file_bytes = (tmp_path / "model.gguf").stat().st_size
    assert beside - 56 * 2**20 == file_bytes + 4 * sum(weights) + 8 * max(weights)


@pytest.mark.parametrize("rows", [1, 2])
def test_gradients_are_held_while_another_row_is_computed(make: Make, rows: int) -> None:
    """Where most is live, a second row's activations stand beside the gradients of the first."""
    recipe = make()
    model = skeleton(describe(recipe.backbone).config, recipe, torch.float32)
    followed = follow(model, recipe.train, Work(tuple(LENGTHS), rows, ()))
    live = followed.timeline.live()
    parts = followed.parts_at(max(range(followed.first, len(live)), key=live.__getitem__))
    assert parts[Part.ACTIVATIONS] > 0
    assert (parts[Part.GRADIENTS] == followed.standing[Part.ADAPTER]) is (rows > 1)


def test_nf4_takes_what_real_layers_take(make: Make) -> None:
    recipe = make(quantize="nf4")
    model = load(recipe.backbone, device="cpu").model
    layers = [module for module in model.modules() if isinstance(module, Nf4Linear)]
    states = [
        tensor
        for layer in layers
        for state in [layer.weight.quant_state]
        for tensor in (state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code)
    ]
    ledger = predict(recipe, LENGTHS, device="cpu")
    assert ledger.weights == stored_bytes([*model.parameters(), *model.buffers()])
    assert ledger.quantisation_state == stored_bytes(states)


@pytest.mark.parametrize("quantize", ["none", "nf4", "int8"])
def test_of_a_streamed_model_two_layers_are_held(tmp_path: Path, make: Make, quantize: str) -> None:
    folder = tiny_models.build(tmp_path / "deep", "qwen3", num_hidden_layers=6)
    spec = {"model": str(folder), "stream": True}
    recipe = make(quantize=quantize, gradient_checkpointing=True)
    recipe = recipe.model_copy(update={"backbone": recipe.backbone.model_copy(update=spec)})
    whole = recipe.model_copy(update={"backbone": recipe.backbone.model_copy(update={"stream": False})})
    resident, streamed = (predict(one, LENGTHS, device="cpu") for one in (whole, recipe))
    assert streamed.away > 0
    assert (
        streamed.weights + streamed.quantisation_state + streamed.away
        == resident.weights + resident.quantisation_state
    )
    model = load(recipe.backbone, device="cpu").model
    layers = [id(p) for layer in model.model.layers for p in layer.parameters()]
    ends = [p for p in model.parameters() if id(p) not in layers]
    layer = sum(p.nbytes for p in model.model.layers[0].parameters())
    assert streamed.weights == pytest.approx(
        stored_bytes([*ends, *model.buffers()]) + 2 * layer, abs=2 * 16 * 256
    )


@pytest.mark.parametrize("quantize", ["none", "nf4", "int8"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_followed_step_holds_what_a_real_one_holds(make: Make, quantize: str, checkpointing: bool) -> None:
    """The same tracker on real tensors, in the same phases; the fake step is within 1 %."""
    recipe = make(quantize=quantize, gradient_checkpointing=checkpointing)
    loaded = load(recipe.backbone, device="cpu")
    model = applied(recipe, loaded.model)
    with packing(loaded.model) as packed:
        assert packed
        real = real_peak(model, loaded.model, recipe, tuple(LENGTHS))
    model = skeleton(describe(recipe.backbone).config, recipe, torch.float32)
    followed = follow(model, recipe.train, Work(tuple(LENGTHS), 1, ()))
    standing = followed.standing
    fake = max(followed.timeline.live()[followed.first :]) - sum(standing.values())
    assert fake == pytest.approx(real, rel=0.01)


def test_a_gradient_that_an_adapter_begins_with_is_foreseen(make: Make) -> None:
    """Its pass holds what that of a step holds, but for what the adapter itself adds, and the gradients of the weights."""
    recipe = make(method=Lora(r=2, init="lora_ga"), max_length=sum(LENGTHS))
    loaded = load(recipe.backbone, device="cpu")
    model = applied(recipe, loaded.model)
    with packing(loaded.model) as packed:
        assert packed
        peak = real_peak(model, loaded.model, recipe, tuple(LENGTHS), begins=True)
    ledger = predict(recipe, LENGTHS, device="cpu")
    standing = stored_bytes([*model.parameters(), *model.buffers()])
    foreseen = ledger.loading - _RUNTIME["loading"]
    assert 0.95 * (standing + peak) < foreseen < 1.25 * (standing + peak)


def real_peak(
    model: nn.Module, backbone: nn.Module, recipe: Recipe, lengths: tuple[int, ...], *, begins: bool = False
) -> int:
    """Most bytes that a forward and a backward pass, or those that an adapter begins with, add to what was there."""
    size = sum(lengths)
    places = [place for length in lengths for place in range(length)]
    starts = {sum(lengths[:number]) for number in range(len(lengths))}
    predict_at = torch.tensor([place - 1 for place in range(size) if place not in starts])
    batch = Batch(
        torch.zeros(1, size, dtype=torch.long),
        torch.tensor([places]),
        lengths,
        predict_at,
        torch.zeros(len(predict_at), dtype=torch.long),
    )
    objective = NextTokenObjective(True, size, torch.device("cpu"), plain_head(backbone))
    model.train()
    tracker = StorageTracker()
    with tracker:
        tracker.see([*model.parameters(), *model.buffers()])
        before = len(tracker.timeline.events)
        if begins:
            assert isinstance(recipe.method, Lora)
            recipe.method.calibrate(model, [lambda: objective.score(model, batch).loss / 2])
        else:
            (objective.score(model, batch).loss / 2).backward()
    live = tracker.timeline.live()
    model.zero_grad(set_to_none=True)
    return max(live[before:]) - live[before - 1]


def test_what_operators_hold_inside_is_seen() -> None:
    """The weight that a 4-bit product unpacks."""
    layer = Nf4Linear(nn.Linear(64, 300))
    with StorageTracker() as tracker:
        layer(torch.zeros(2, 64, requires_grad=True))
    assert 64 * 300 * 4 in tracker.timeline.sizes


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in ("llama_tied", "cohere")])
def test_every_family_is_followed(family: str, tmp_path: Path) -> None:
    config = FAMILIES[family]()
    recipe = Recipe(method=Lora(r=2))
    model = skeleton(config, recipe, torch.float32)
    followed = follow(model, recipe.train, Work((40, 20), 1, (30,)))
    weights = sum(p.numel() * 4 for p in tiny_models.model(family).parameters())
    assert weights <= followed.standing[Part.WEIGHTS] <= weights * 1.1  # buffers on top


def test_tied_weights_count_once() -> None:
    tied, own = (skeleton(FAMILIES[name](), Recipe(), torch.float32) for name in ("llama_tied", "llama"))
    assert tied.backbone.get_output_embeddings().weight is tied.backbone.get_input_embeddings().weight
    assert own.backbone.get_output_embeddings().weight is not own.backbone.get_input_embeddings().weight


def test_checkpointing_holds_less() -> None:
    peaks = []
    for on in (False, True):
        recipe = Recipe(train=Train(gradient_checkpointing=on))
        model = skeleton(FAMILIES["llama"](num_hidden_layers=6), recipe, torch.float32)
        followed = follow(model, recipe.train, Work((400,), 1, ()))
        peaks.append(max(followed.timeline.live()) - sum(followed.standing.values()))
    assert peaks[1] < 0.5 * peaks[0]


def test_full_training_holds_four_times_the_weights(make: Make) -> None:
    ledger = predict(make(method=Full()), LENGTHS, device="cpu")
    assert ledger.adapter == 0
    assert ledger.optimiser == pytest.approx(2 * ledger.weights, rel=0.01)


@pytest.mark.parametrize("pair", [({"rank": 2}, {"rank": 64}), ({"max_length": 64}, {"max_length": 512})])
def test_more_needs_more(make: Make, pair: tuple[dict[str, int], dict[str, int]]) -> None:
    ledgers = [predict(make(**values), device="cpu") for values in pair]
    # Without the holes of the heap: one block at its end decides whether 30 MB of them go back.
    small, large = (ledger.step_bytes - ledger.allocator_slack for ledger in ledgers)
    assert small < large


def test_rows_are_as_full_as_they_can_be(make: Make) -> None:
    recipe = make(micro_batch_tokens=300)
    assert largest(recipe, LENGTHS, [50]).row == (200, 100)
    assert largest(recipe, LENGTHS, [50]).rows > 1
    assert largest(recipe, LENGTHS, [50]).validation == (50,)
    assert largest(recipe, [400, 10], None).row == (400,)  # a longer example is a row of its own
    assert largest(make(micro_batch_tokens=300, max_length=256), None, None).row == (256, 44)
    assert largest(recipe, [5, 6], []).row == (6, 5)
    assert largest(recipe, LENGTHS, None, packed=False).row == (200,)


def test_a_plan_leaves_the_generator_alone(make: Make) -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    predict(make(), LENGTHS, device="cpu")
    assert torch.equal(torch.rand(3), expected)


def test_the_allocator_is_asked() -> None:
    """Blocks of 1 MB: eight at once are resident; a hole that is given back is not, and one that is kept is."""
    block = 2**20

    def resident(events: list[int]) -> int:
        program = [sys.executable, "-S", heap_replay.__file__]
        done = subprocess.run(program, input=array("q", events).tobytes(), capture_output=True, check=True)
        return int(done.stdout.split()[0])

    first = [2 * block, -1]  # glibc then keeps blocks of this size in its heap
    eight = [*first, *[block] * 8]
    assert 7.7 * block <= resident(eight) <= 8.3 * block
    holes = [-1 - number for number in (1, 3, 5, 7)]
    more = [3 * block // 2] * 4
    kept, given = resident([*eight, *holes, *more]), resident([*eight, *holes, GIVEN_BACK, *more])
    assert kept >= 13.7 * block
    assert given <= 10.6 * block


def test_a_card_is_planned_in_the_type_that_it_trains_in(make: Make) -> None:
    recipe = make()
    recipe = recipe.model_copy(update={"backbone": recipe.backbone.model_copy(update={"dtype": "auto"})})
    kinds = (torch.float32, torch.float16, torch.bfloat16)
    assert tuple(planned_dtype(recipe, "cuda", kind) for kind in kinds) == kinds
    assert planned_dtype(recipe, "cuda") == torch.bfloat16
    oldest, old, new = (predict(recipe, LENGTHS, device="cuda", of_card=kind) for kind in kinds)
    assert oldest.weights == pytest.approx(2 * new.weights, rel=0.01)
    assert old == new


def test_train_defaults_are_followed_on_a_gpu(make: Make) -> None:
    ledger = predict(make(), LENGTHS, device="cuda")
    assert ledger.runtime == 0
    assert ledger.peak_bytes < predict(make(), LENGTHS, device="cpu").peak_bytes
    assert Train().micro_batch_tokens > 0
