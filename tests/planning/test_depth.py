"""A deep model followed by two shallow ones needs what it needs when all its layers are followed."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
import transformers
from transformers import PretrainedConfig

from ptune.config.recipe import Backbone, Recipe, Train
from ptune.methods.freeze import FreezeExceptLast
from ptune.methods.full import Full
from ptune.methods.lora import Lora
from ptune.planning import heap_use
from ptune.planning.depth import Shallow, in_shapes
from ptune.planning.prediction import step_of
from ptune.planning.skeleton import skeleton
from ptune.planning.step import Followed, Part, Work, follow

LAYERS = 9
SIZES: dict[str, Any] = {
    "vocab_size": 2048, "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": LAYERS,
    "num_attention_heads": 6, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
CONFIGS = {
    "llama": lambda: transformers.LlamaConfig(**SIZES, num_key_value_heads=2),
    "qwen3": lambda: transformers.Qwen3Config(
        **SIZES, num_key_value_heads=2, head_dim=32, tie_word_embeddings=True
    ),
    "neox": lambda: transformers.GPTNeoXConfig(**SIZES),
}
WORK = Work((150, 90), 2, (200,))


def recipe_of(
    method: Any, base: Literal["none", "nf4", "int8"] = "none", checkpointing: bool = False
) -> Recipe:
    return Recipe(
        backbone=Backbone(dtype="float32", quantize=base),
        method=method,
        train=Train(gradient_checkpointing=checkpointing),
    )


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("family", "method", "base"),
    [
        ("llama", Lora(r=4), "nf4"),
        ("llama", Lora(r=128), "none"),
        ("llama", Full(), "none"),
        ("llama", FreezeExceptLast(layers=1), "none"),
        ("qwen3", Lora(r=8), "int8"),
        ("neox", Lora(r=8), "nf4"),
    ],
)
def test_two_shallow_models_stand_for_a_deep_one(
    family: str, method: Any, base: Literal["none", "nf4", "int8"], checkpointing: bool
) -> None:
    recipe, config = recipe_of(method, base, checkpointing), CONFIGS[family]()
    shallow = in_shapes(config, recipe, torch.float32, "cuda")
    assert shallow.more is not None
    whole = Shallow(skeleton(config, recipe, torch.float32), None, 0)
    found, wanted = (step_of(model, recipe, WORK, "cuda") for model in (shallow, whole))
    assert found.standing == wanted.standing
    assert found.peak.total == pytest.approx(wanted.peak.total, rel=0.005)
    assert shallow.of_model(lambda one: sum(one.sizes)) == sum(whole.few.sizes)


def test_on_a_cpu_all_layers_of_a_small_model_are_followed() -> None:
    """Its heap does not grow evenly: extrapolated, a step would be up to 9 % off."""
    config, recipe = CONFIGS["llama"](), recipe_of(Lora(r=2))
    assert in_shapes(config, recipe, torch.float32, "cpu").more is None
    large = transformers.LlamaConfig(
        **SIZES | {"hidden_size": 6144, "intermediate_size": 16384, "vocab_size": 128}
    )
    assert in_shapes(large, recipe, torch.float32, "cpu").more is not None


def layers_followed(config: PretrainedConfig) -> list[int]:
    shallow = in_shapes(config, recipe_of(Lora(r=2)), torch.float32, "cuda")
    return [one.backbone.config.num_hidden_layers for one in (shallow.few, shallow.more) if one is not None]


def test_layers_that_differ_are_all_followed() -> None:
    """A pattern of kinds of layers is followed as a whole; layers without one are followed one by one."""
    pattern = ["sliding_attention", "full_attention"]
    gemma: dict[str, Any] = SIZES | {"num_key_value_heads": 2, "head_dim": 32}
    deep = transformers.Gemma3TextConfig(
        **gemma | {"num_hidden_layers": 13}, layer_types=[*pattern * 6, pattern[0]]
    )
    assert layers_followed(deep) == [5, 7]
    mixed = transformers.Gemma3TextConfig(**gemma, layer_types=[*pattern[:1] * (LAYERS - 1), pattern[1]])
    assert layers_followed(mixed) == [LAYERS]


def test_a_model_of_few_layers_is_followed_as_it_is() -> None:
    assert layers_followed(transformers.LlamaConfig(**SIZES | {"num_hidden_layers": 4})) == [4]


def test_what_the_heap_does_in_two_layers_is_not_said_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """The heap of a process depends on its environment, too: a few pages more of a layer are no memory of every layer."""
    more = 8 << 20
    recipe = recipe_of(Lora(r=4), "nf4")
    shallow = in_shapes(CONFIGS["llama"](), recipe, torch.float32, "cuda")
    assert shallow.more is not None
    plain = heap_use.peaks

    def uneven(followed: Followed) -> list[int]:
        """Of the deeper of the two."""
        deeper = followed.standing[Part.WEIGHTS] > least
        return [one + more * deeper for one in plain(followed)]

    least = follow(shallow.few, recipe.train, WORK).standing[Part.WEIGHTS]
    even = step_of(shallow, recipe, WORK, "cpu")
    monkeypatch.setattr(heap_use, "peaks", uneven)
    found = step_of(shallow, recipe, WORK, "cpu")
    assert 0 <= found.peak.total - even.peak.total <= more
    assert all(amount >= 0 for moment in found.moments for amount in moment.parts.values())
