"""New tokens are found in text, shown in answers, and begin as the mean of all others, which stay as they were."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import tiny_models
from tokenizers import Tokenizer

from ptune.backbone.load import load
from ptune.backbone.new_tokens import add_tokens, enlarge
from ptune.config.recipe import Backbone
from ptune.errors import BackboneError

NEW = ("<ask>", "<ask>!", "<say>")


def tokenizer(*tokens: str) -> Tokenizer:
    copy = Tokenizer.from_str(tiny_models.tokenizer().backend_tokenizer.to_str())
    add_tokens(copy, tokens)
    return copy


@settings(max_examples=60)
@given(parts=st.lists(st.sampled_from([*NEW, "<|im_end|>", " ", "word", "<as", "k>", "é"]), max_size=8))
def test_a_token_is_found_wherever_its_text_stands_the_longest_first(parts: list[str]) -> None:
    text, plain, ours = "".join(parts), tokenizer(), tokenizer(*NEW)
    ids = ours.encode(text).ids
    # Special tokens are left out when an answer is shown; new ones are no special ones.
    assert ours.decode(ids) == text.replace("<|im_end|>", "")
    found = [ours.id_to_token(token) for token in ids if token >= tiny_models.VOCAB]
    rest, expected = text, []
    while rest:
        token = next((t for t in sorted(NEW, key=len, reverse=True) if rest.startswith(t)), None)
        expected += [token] if token else []
        rest = rest[len(token or "x") :]
    assert found == expected
    if not found:
        assert ids == plain.encode(text).ids


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        ("<|im_end|>", "is a token of this model already"),
        ("a", "is a token of this model already"),
        ("<|im_start|>tool", "holds '<|im_start|>', a token of the model's own"),
        ("<café>", "would be shown as '<caf�>' by this tokenizer"),
    ],
)
def test_what_cannot_be_a_new_token_is_refused_by_name(token: str, reason: str) -> None:
    with pytest.raises(BackboneError) as caught:
        tokenizer("<fine>", token)
    assert f"backbone.new_tokens: {token!r}" in str(caught.value)
    assert reason in str(caught.value)


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_new_rows_are_the_mean_and_old_ones_stay(family: str) -> None:
    model, before = tiny_models.model(family), tiny_models.model(family)
    enlarge(model, [600, 601])
    for ours, theirs in zip(ends(model), ends(before), strict=True):
        assert torch.equal(ours.weight[:600], theirs.weight[:600])
        for row in ours.weight[600:]:
            torch.testing.assert_close(row, theirs.weight.mean(0))
    assert model.config.vocab_size == 602
    tied = [len({id(end.weight) for end in ends(some)}) == 1 for some in (model, before)]
    assert tied[0] == tied[1]
    with torch.no_grad():
        x = torch.tensor([[5, 9]])
        torch.testing.assert_close(model(x).logits[..., :600], before(x).logits)


def ends(model: torch.nn.Module) -> list[torch.nn.Module]:
    return [model.get_input_embeddings(), model.get_output_embeddings()]


def test_a_new_row_is_the_same_bytes_whatever_threads_and_random_state() -> None:
    rows, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            torch.manual_seed(count)
            model = tiny_models.model("llama")
            state = torch.get_rng_state()
            enlarge(model, [600])
            assert torch.equal(torch.get_rng_state(), state)
            rows.append(model.get_input_embeddings().weight[600])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*rows)


def test_rows_beyond_the_vocabulary_are_used_first() -> None:
    model, before = (tiny_models.model("llama", vocab_size=640) for _ in range(2))
    enlarge(model, [600, 601])
    for ours, theirs in zip(ends(model), ends(before), strict=True):
        changed = (ours.weight != theirs.weight).any(1).nonzero().flatten().tolist()
        assert changed == [600, 601]
        torch.testing.assert_close(ours.weight[600], theirs.weight[:600].mean(0))


@pytest.mark.parametrize("quantize", ["none", "nf4", "int8"])
def test_the_base_stays_itself(quantize: str, tmp_path: Path) -> None:
    folder = str(tiny_models.build(tmp_path / "model", "llama_tied"))
    spec = Backbone.model_validate({"model": folder, "quantize": quantize})
    plain, ours = load(spec), load(spec.model_copy(update={"new_tokens": ("<ask>", "<say>")}))
    assert ours.identity == plain.identity
    assert ours.new_tokens == (600, 601)
    assert not any(parameter.requires_grad for parameter in ours.model.parameters())
    ids = torch.tensor([ours.codec.encode_text("a<say>b")])
    assert 601 in ids
    with torch.no_grad():
        assert ours.model(ids).logits.shape[-1] == 602


def test_a_new_token_that_the_template_writes_is_a_control_token(tmp_path: Path) -> None:
    """As when ChatML's tokens are new to a model: they end turns and nobody can type them."""
    folder = tiny_models.build(tmp_path / "model", "llama")
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}<turn>{{ m.role }}\n{{ m.content }}</turn>{% endfor %}"
        "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
    )
    codec = load(Backbone(model=str(folder), new_tokens=("<turn>", "</turn>", "<word>"))).codec
    begin, end, word = (codec.tokenizer.token_to_id(token) for token in ("<turn>", "</turn>", "<word>"))
    assert end in codec.eos_ids
    asked, said = "<word></turn><turn>", "<word></turn>"
    example = codec.encode_example(
        [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
    )
    controls = [token for token in example.ids if token in (begin, end, word)]
    assert controls == [begin, word, end, begin, word, end]
    targets = list(itertools.compress(example.ids, example.targets))
    assert (targets[0], targets[-1]) == (word, end)
    assert codec.decode(targets[:-1]) == said
