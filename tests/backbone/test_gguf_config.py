"""A base out of a GGUF file computes what the model computes that the file was made of."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import gguf_file, tiny_models
from support.other_engines import NEEDS_LLAMA_CPP
from torch import Tensor

from ptune.backbone.load import load
from ptune.config.recipe import Backbone
from ptune.errors import BackboneError
from ptune.export.gguf.vocabulary import vocabulary_of
from ptune.export.gguf.write import Facts, write_model
from ptune.parity import log_softmax

IDS = torch.randint(5, 500, (1, 100), generator=torch.Generator().manual_seed(0))
STRETCHED = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama 3, one frequency in between": ("llama", {"rope_parameters": tiny_models.LLAMA3}),
    "llama 3.1": (
        "llama",
        {
            "head_dim": 64,
            "rope_parameters": {**STRETCHED, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
        },
    ),
    "another high_freq_factor": (
        "llama",
        {
            "head_dim": 64,
            "rope_parameters": {**STRETCHED, "high_freq_factor": 6.0, "original_max_position_embeddings": 512},
        },
    ),
    "another low_freq_factor": (
        "llama",
        {
            "head_dim": 64,
            "rope_parameters": {
                **STRETCHED, "low_freq_factor": 2.0, "high_freq_factor": 6.0, "original_max_position_embeddings": 512,
            },
        },
    ),
    "linear": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}),
    "gemma3, linear in some layers": (
        "gemma3",
        {
            "query_pre_attn_scalar": 16,
            "num_hidden_layers": 7,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
    ),
    "gemma2 of 27B's depth": (
        "gemma2",
        {"query_pre_attn_scalar": 16, "head_dim": 32, "num_hidden_layers": 46},
    ),
    "phi3, of which a part turns": (
        "phi3",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
    ),
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
YARN_SAID: dict[str, str | float | int] = {
    "scaling.type": "yarn",
    "scaling.factor": 4.0,
    "scaling.original_context_length": 64,
}
SHORT, LONG = np.linspace(1.0, 1.5, 8, dtype=np.float32), np.linspace(2.0, 9.0, 8, dtype=np.float32)


@torch.no_grad()
def answers(model: Any) -> Tensor:
    return torch.from_numpy(log_softmax(model(input_ids=IDS).logits.numpy()))


def out_of(file: Path) -> Any:
    return load(Backbone(model=str(file), dtype="float32")).model


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_model_that_is_written_is_read_as_it_was(name: str, tmp_path: Path) -> None:
    family, config = MODELS[name]
    loaded = load(
        Backbone(model=str(tiny_models.build(tmp_path / "model", family, **config)), dtype="float32")
    )
    file, vocabulary = tmp_path / "model.gguf", vocabulary_of(loaded.codec, tiny_models.VOCAB)
    unused: Any = None  # nothing is rounded
    write_model(file, loaded.model, vocabulary, "default", Facts("x", "mit", 512), "F32", unused)
    assert torch.allclose(answers(out_of(file)), answers(loaded.model), atol=1e-4)


def test_yarn_is_read(tmp_path: Path) -> None:
    original = tiny_models.model("llama", rope_parameters=YARN)
    gguf_file.write(tmp_path / "yarn.gguf", model=original, rope=YARN_SAID)
    assert torch.allclose(answers(out_of(tmp_path / "yarn.gguf")), answers(original), atol=1e-4)


def test_longrope_is_read(tmp_path: Path) -> None:
    told = {"attention_factor": 1.25, "original_max_position_embeddings": 128}
    rope = {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": SHORT.tolist(),
        "long_factor": LONG.tolist(),
    }
    original = tiny_models.model("llama", rope_parameters={**rope, **told})
    gguf_file.write(
        tmp_path / "long.gguf",
        model=original,
        rope={"scaling.attn_factor": 1.25, "scaling.original_context_length": 128},
        tensors={"rope_factors_short.weight": SHORT, "rope_factors_long.weight": LONG},
    )
    found = load(Backbone(model=str(tmp_path / "long.gguf"), dtype="float32"))
    assert torch.allclose(answers(found.model), answers(original), atol=1e-4)
    assert found.codec.context == 128


@NEEDS_LLAMA_CPP
@pytest.mark.parametrize("kind", ["yarn", "longrope"])
def test_llama_cpp_computes_the_same(kind: str, tmp_path: Path) -> None:
    from ptune.llama_cpp.library import required_library
    from ptune.verify.decoder.torch_side import Probe, logprobs
    from ptune.verify.llama_cpp import llama_log_probs

    write = partial(gguf_file.write, tmp_path / "model.gguf", pre="gpt-2")
    if kind == "yarn":
        write(rope=YARN_SAID)
    else:
        write(
            rope={"scaling.type": "longrope", "scaling.attn_factor": 1.25, "scaling.original_context_length": 512},
            tensors={"rope_factors_short.weight": SHORT, "rope_factors_long.weight": LONG},
        )  # fmt: skip
    ids = tuple(IDS[0].tolist())
    probes = [Probe(ids, tuple(range(len(ids))), len(ids))]
    [there] = llama_log_probs(required_library(), tmp_path / "model.gguf", None, probes, 1)
    [here] = logprobs(out_of(tmp_path / "model.gguf"), probes)
    assert float((np.exp(here) * (here - there)).sum(-1).mean()) < 2e-5


@pytest.mark.parametrize(
    ("rope", "tensors", "said"),
    [
        ({"scaling.type": "su", "scaling.factor": 4.0}, {}, "are of type 'su'"),
        ({}, {"rope_freqs.weight": np.tile(np.array([1, 5], np.float32), 4)}, "divided by factors"),
    ],
    ids=["type", "factors"],
)
def test_what_cannot_be_followed_is_refused(
    rope: dict[str, str | float | int], tensors: dict[str, np.ndarray], said: str, tmp_path: Path
) -> None:
    gguf_file.write(tmp_path / "odd.gguf", rope=rope, tensors=tensors)
    with pytest.raises(BackboneError, match=rf"odd\.gguf: its rotary frequencies .*{said}"):
        out_of(tmp_path / "odd.gguf")
