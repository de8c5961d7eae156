"""NEFTune's noise is transformers', each packed text's own, in training alone, and refused where no text is written."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import tiny_models
from support.seq2seq_models import seq2seq
from transformers.integrations.neftune import activate_neftune

from ptune.codecs.chat import Example
from ptune.config.classification import TextClassification
from ptune.config.recipe import Recipe, Train
from ptune.data.shapes.preferences import Pair
from ptune.errors import RecipeError
from ptune.methods.lora import Lora
from ptune.training.layers.noise import check_noise, with_noise
from ptune.training.rows.answer_rows import answer_rows
from ptune.training.rows.packing import ALONE
from ptune.training.rows.segments import segments

IDS = torch.tensor([[3, 60, 17, 101, 42, 301, 9]])


def embedded(model: Any, lengths: tuple[int, ...] = ()) -> torch.Tensor:
    """What the first layer is given, with the generator at the same place."""
    torch.manual_seed(5)
    with segments(lengths), torch.no_grad():
        found: torch.Tensor = model.get_input_embeddings()(IDS)
    return found


@pytest.mark.parametrize("family", ["gemma3", "gpt2", "llama"])
def test_noise_is_that_of_transformers(family: str) -> None:
    ours, theirs, plain = (tiny_models.model(family).train() for _ in range(3))
    with_noise(ours, 7.0)
    activate_neftune(theirs, 7.0)
    noise = embedded(ours) - embedded(plain)
    assert (noise - (embedded(theirs) - embedded(plain))).abs().max() < 1e-6
    limit = 7 / (7 * 64) ** 0.5
    assert 0.95 * limit < noise.abs().max() <= limit * 1.0001


def test_packed_texts_have_each_their_own() -> None:
    ours, plain = tiny_models.model("llama").train(), tiny_models.model("llama")
    with_noise(ours, 2.0)
    noise = (embedded(ours, (2, 5)) - embedded(plain))[0]
    for text, length in ((noise[:2], 2), (noise[2:], 5)):
        limit = 2 / (length * 64) ** 0.5
        assert 0.9 * limit < text.abs().max() <= limit * 1.0001


def test_answers_that_share_their_prompt_in_a_row_have_each_their_own() -> None:
    def answer(first: int, count: int) -> Example:
        ids = (3, 60, 17, 101, *range(first, first + count))
        return Example(ids, (False,) * 4 + (True,) * count)

    pairs = [
        Pair(answer(10, 4), answer(50, 8), "train", 0),
        Pair(answer(110, 20), answer(150, 3), "train", 1),
    ]
    ours, plain = tiny_models.model("llama").train(), tiny_models.model("llama")
    with_noise(ours, 2.0)
    (rows,) = answer_rows(pairs, 4096, torch.device("cpu"), ALONE, packed=True)
    (batch,) = rows.passes
    with segments(batch.lengths, batch.shared), torch.no_grad():
        noisy = ours.get_input_embeddings()(batch.input_ids)
    noise = (noisy - plain.get_input_embeddings()(batch.input_ids))[0].abs().amax(1)
    answers = noise[4:16], noise[20:43]  # behind each prompt of four tokens
    parts = (*answers[0].split((4, 8)), *answers[1].split((20, 3)))
    for part, length in zip(parts, (8, 12, 24, 7), strict=True):
        limit = 2 / (length * 64) ** 0.5
        assert 0.9 * limit < part.max() <= limit * 1.0001


def test_nothing_is_added_to_what_is_measured() -> None:
    model = tiny_models.model("llama")
    with_noise(model, 50.0)
    adapted = Lora(r=2).apply(model).eval()
    with torch.no_grad():
        assert torch.equal(adapted(IDS).logits, tiny_models.model("llama")(IDS).logits)
        assert not torch.equal(adapted.train()(IDS).logits, adapted(IDS).logits)  # noise, and another one


def test_it_is_for_causal_models() -> None:
    with pytest.raises(RecipeError, match="T5ForConditionalGeneration is an encoder-decoder"):
        with_noise(seq2seq("t5"), 5.0)
    recipe = Recipe(task=TextClassification(), train=Train(neftune_alpha=5.0))
    with pytest.raises(
        RecipeError, match="for chat and translation by causal models, not for TextClassification"
    ):
        check_noise(recipe)
