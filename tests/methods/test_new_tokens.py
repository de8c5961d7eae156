"""New tokens from training to serving: only their rows are trained, and every reader of the run sees the same rows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from support import tiny_models
from support.float32_copies import with_own_weights
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from ptune import publish
from ptune.backbone.load import load
from ptune.codecs.chat import ChatCodec
from ptune.codecs.structured_output import StructuredOutput
from ptune.config.recipe import Backbone, Data, Evaluate, Recipe, Train
from ptune.engine.adapters.lora import load_adapter
from ptune.errors import AdapterError, RecipeError
from ptune.evaluation.evaluate import evaluate
from ptune.export.merge import merged
from ptune.fine_tune import train
from ptune.formats.bundle import Bundle
from ptune.formats.run import Run
from ptune.methods.freeze import FreezeExceptLast
from ptune.methods.full import Full
from ptune.methods.lora import Lora
from ptune.publish.decoder_run import reference
from ptune.tasks.chat import infer
from ptune.training.preparation import applied

TOKENS, IDS = ("<ask>", "<say>"), [600, 601]
X = torch.tensor([[3, 600, 17, 601, 42, 601, 9]])
QUESTION = [{"role": "user", "content": "<ask> Patience"}]


def recipe(place: Path, family: str, method: Lora | Full | None = None, quantize: str = "none") -> Recipe:
    """Every question has one new token, every answer the other."""
    if not (place / family).exists():
        tiny_models.build(place / family, family)
        rows = [
            [
                {**asked, "content": "<ask> " + asked["content"]},
                {**said, "content": "<say>" + said["content"]},
            ]
            for asked, said in tiny_models.conversations(16)
        ]
        tiny_models.write_jsonl(place / "data.jsonl", rows)
    backbone = {
        "model": str(place / family),
        "quantize": quantize,
        "dtype": "float32",
        "new_tokens": TOKENS,
    }
    return Recipe(
        backbone=Backbone.model_validate(backbone),
        method=method or Lora(r=2),
        data=Data(files=(place / "data.jsonl",), validation_share=0.3),
        train=Train(max_steps=4, lr=2e-2, batch_size=4, validate_every=2, schedule="constant"),
        evaluate=Evaluate(answers=1, answer_tokens=3, in_context=0, limit=4),
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("new_tokens")


@pytest.fixture(scope="module", params=["llama", "llama_tied"])
def run(request: pytest.FixtureRequest, place: Path) -> Run:
    """A run on an untied and on a tied model."""
    return train(recipe(place, request.param), place / f"run_{request.param}")


def live(run: Run) -> PeftModel:
    """The run's model as ptune itself loads it."""
    backbone = Recipe.load(run.recipe_path).backbone
    return PeftModel.from_pretrained(load(backbone).model, str(run.adapter_path)).eval()


def logprobs(model: nn.Module, ids: torch.Tensor = X) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(ids).logits.double().log_softmax(-1)


def ends(model: nn.Module) -> list[torch.Tensor]:
    return [model.get_input_embeddings().weight, model.get_output_embeddings().weight]


@pytest.mark.parametrize("family", ["llama", "llama_tied", "gemma3", "gpt2"])
def test_only_new_rows_and_the_adapter_learn(place: Path, family: str) -> None:
    wanted = recipe(place, family)
    loaded = load(wanted.backbone, device="cpu")
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    tied = loaded.model.get_input_embeddings().weight is loaded.model.get_output_embeddings().weight
    model = applied(wanted, loaded.model, loaded.new_tokens)
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    rows = {name: p for name, p in learning.items() if "lora_" not in name}
    assert sorted(p.shape[0] for p in rows.values()) == [2] if tied else [2, 2]
    optimizer = torch.optim.AdamW(learning.values(), lr=1e-2, weight_decay=0.1)
    first = {name: p.detach().clone() for name, p in learning.items()}
    for _ in range(3):
        model(X, labels=X).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert all(not torch.equal(first[name], p) for name, p in learning.items())
    assert not torch.equal(*next(iter(rows.values())))  # each learns something of its own
    for name, tensor in model.get_base_model().state_dict().items():
        if "lora_" not in name and "trainable_tokens" not in name:
            assert torch.equal(tensor, before[name.replace(".base_layer", "").replace(".token_adapter", "")])


def test_a_16_bit_base_learns_its_rows_in_float32(place: Path) -> None:
    wanted = recipe(place, "llama_tied")
    backbone = wanted.backbone.model_copy(update={"dtype": "bfloat16"})
    loaded = load(backbone, device="cpu")
    model = applied(wanted, loaded.model, loaded.new_tokens)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}


def test_the_adapter_holds_the_rows_and_nothing_else_of_the_embedding(run: Run) -> None:
    tensors = load_file(run.adapter_path / "adapter_model.safetensors")
    rows = {name: tensor for name, tensor in tensors.items() if "lora_" not in name}
    assert len(rows) == (1 if "tied" in run.folder.name else 2)
    assert {tuple(tensor.shape) for tensor in rows.values()} == {(2, 64)}
    backbone = Recipe.load(run.recipe_path).backbone
    for row in (row for tensor in rows.values() for row in tensor):
        assert all(not torch.equal(row, weight[600]) for weight in ends(load(backbone).model))
    assert run.record().hops[0].max_abs_logprob == 0.0
    bare = load(backbone.model_copy(update={"new_tokens": ()}))
    assert run.record().base.hash == bare.identity.hash
    facts = json.loads((run.adapter_path / "ptune.json").read_text())
    assert facts["new_tokens"] == dict(zip(TOKENS, IDS, strict=True))


def test_plain_peft_loads_it_as_the_model_card_says(run: Run) -> None:
    card = run.card_path.read_text()
    lines = card.partition("```python\n")[2].partition("```")[0].replace('"adapter"', "adapter")
    names = {
        "AutoTokenizer": AutoTokenizer,
        "AutoModelForCausalLM": AutoModelForCausalLM,
        "PeftModel": PeftModel,
        "adapter": str(run.adapter_path),
    }
    torch.manual_seed(1)  # transformers draws the rows that the adapter replaces
    exec(lines, names)
    assert torch.equal(logprobs(names["model"]), logprobs(live(run)))
    ours, theirs = ChatCodec.open(run.codec_path), names["tokenizer"]
    assert ours.encode_prompt(QUESTION) == theirs.apply_chat_template(
        QUESTION, add_generation_prompt=True, return_dict=False
    )
    assert theirs.decode([601], skip_special_tokens=True) == "<say>"


def test_merged_rows_are_the_trained_ones(run: Run) -> None:
    check_merge(run)


@pytest.mark.parametrize(
    ("family", "quantize"),
    [("llama", "nf4"), ("llama_tied", "int8")]
    + [pytest.param(*other, marks=pytest.mark.slow) for other in (("llama", "int8"), ("llama_tied", "nf4"))],
)
def test_a_quantised_base_is_merged_too(place: Path, family: str, quantize: str) -> None:
    short = recipe(place, family, quantize=quantize)
    short = short.model_copy(update={"train": Train(max_steps=1, lr=2e-2, batch_size=4)})
    check_merge(train(short, place / f"{quantize}_{family}"))


def check_merge(run: Run) -> None:
    backbone = Recipe.load(run.recipe_path).backbone
    base = reference(backbone).model
    with_own_weights(base)
    before = [weight.clone() for weight in ends(base)]
    adapted = PeftModel.from_pretrained(base, str(run.adapter_path))
    trained = load_file(run.adapter_path / "adapter_model.safetensors")
    expected = logprobs(adapted.double())
    plain, lost = merged(adapted.float())
    assert lost < 1e-4
    rows = [tensor for name, tensor in sorted(trained.items()) if "token_adapter" in name]
    assert (ends(plain)[0] is ends(plain)[1]) == (len(rows) == 1)
    for weight, old in zip(ends(plain), before, strict=True):
        assert torch.equal(weight[:600], old[:600])
        assert any(torch.equal(weight[600:], row) for row in rows)
    assert (logprobs(plain.double()) - expected).abs().max() <= 1e-5


@pytest.mark.parametrize("run", ["llama", "llama_tied"], indirect=True)
def test_it_is_served_beside_its_base_and_another_with_other_tokens(
    run: Run, place: Path, tmp_path: Path
) -> None:
    proof = publish.export_run(run, tmp_path / "bundle", name="x", threads=1)
    assert proof.passed
    bundle = Bundle.open(tmp_path / "bundle")
    assert bundle.decoder.ends is not None
    assert (bundle.decoder.ends.kinds, bundle.decoder.vocab_size) == (("tokens",), 600)
    assert {token.text: token.id for token in bundle.adapter("x").new_tokens} == dict(
        zip(TOKENS, IDS, strict=True)
    )
    other = recipe(place, run.folder.name.removeprefix("run_"))
    told = other.backbone.model_copy(update={"new_tokens": ("<ask>", "<tell>", "<say>")})
    second = train(other.model_copy(update={"backbone": told}), tmp_path / "second")
    assert publish.add(tmp_path / "bundle", second.adapter_path, "y", threads=1).parity == "measured"
    model = infer.load(tmp_path / "bundle", threads=1)
    try:
        check_served(model, run, "x", 601)
        check_served(model, second, "y", 602)
        assert not {600, 601, 602} & {*model.encode_chat(QUESTION)}
        forced = StructuredOutput.regex("(<tell>|<say>){2}")
        for name, text in (("x", "<say>"), ("y", "<tell>")):
            said = model.chat(
                QUESTION, adapter=name, temperature=0, logit_bias={601: 50.0}, response_format=forced
            )
            assert said.text == text * 2
    finally:
        model.close()
    assert publish.verify(tmp_path / "bundle", threads=1).passed


def check_served(model: infer.ChatModel, run: Run, name: str, say: int) -> None:
    """What the engine says under an adapter is what peft says, in the vocabulary that it was trained with."""
    prompt = ChatCodec.open(run.codec_path).encode_prompt(QUESTION)
    assert model.encode_chat(QUESTION, name) == prompt
    assert 600 in prompt
    answer = model.chat(QUESTION, adapter=name, temperature=0, max_tokens=4, logit_bias={say: 100.0})
    assert answer.text == "<say>" * 4
    expected = logprobs(live(run), torch.tensor([prompt]))[0].float().numpy()
    [found] = model.engine.logits([prompt], [name])
    assert found.shape == expected.shape
    assert abs(torch.tensor(found).log_softmax(-1).numpy() - expected).max() < 1e-3


@pytest.mark.parametrize("run", [pytest.param("llama", marks=pytest.mark.slow), "llama_tied"], indirect=True)
def test_it_is_served_merged(run: Run, tmp_path: Path) -> None:
    assert publish.export_run(run, tmp_path / "bundle", name="x", merge=True, threads=1).passed
    saved = AutoModelForCausalLM.from_pretrained(run.folder / "merged", dtype=torch.float32)
    assert (logprobs(saved) - logprobs(live(run))).abs().max() < 1e-4
    assert AutoTokenizer.from_pretrained(run.folder / "merged").convert_tokens_to_ids(list(TOKENS)) == IDS
    model = infer.load(tmp_path / "bundle", threads=1)
    try:
        prompt = ChatCodec.open(run.codec_path).encode_prompt(QUESTION)
        assert model.encode_chat(QUESTION) == prompt
        assert 600 in prompt
        answer = model.chat(QUESTION, temperature=0, max_tokens=8, logit_bias={601: 100.0})
        assert answer.text == "<say>" * 8
        expected = logprobs(saved, torch.tensor([prompt]))[0, -1].float().numpy()
        [found] = model.engine.logits([prompt], ["base"])
        assert abs(torch.tensor(found[-1]).log_softmax(-1).numpy() - expected).max() < 1e-3
    finally:
        model.close()
    refuse_beside_a_base(run, tmp_path)


def refuse_beside_a_base(run: Run, tmp_path: Path) -> None:
    """Neither what its configuration says nor what its file holds is passed over."""
    signature = Bundle.open(tmp_path / "bundle").manifest.signature
    with pytest.raises(AdapterError, match=r"(?s)trainable_token_indices.*ptune export RUN --merge"):
        publish.add(tmp_path / "bundle", run.adapter_path, "x", threads=1)
    quiet = Path(shutil.copytree(run.adapter_path, tmp_path / "quiet"))
    config = json.loads((quiet / "adapter_config.json").read_text())
    (quiet / "adapter_config.json").write_text(json.dumps({**config, "trainable_token_indices": None}))
    with pytest.raises(AdapterError, match=r"embeddings of single tokens.*ptune export RUN --merge"):
        load_adapter(quiet, signature)
    tensors = load_file(quiet / "adapter_model.safetensors")
    tensors = {name: tensor for name, tensor in tensors.items() if "lora_" in name}
    whole = {"base_model.model.model.embed_tokens.modules_to_save.weight": torch.ones(602, 64)}
    save_file({**tensors, **whole}, quiet / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match="whole trained modules"):
        load_adapter(quiet, signature)


def test_resume_gives_the_same_bytes(run: Run, tmp_path: Path) -> None:
    again = Run(shutil.copytree(run.folder, tmp_path / "again", ignore=shutil.ignore_patterns("step-4")))
    shutil.rmtree(again.adapter_path)
    (again.checkpoints_path / "latest.json").write_text('{"step": 2}')
    again.write_record(again.record().model_copy(update={"status": "interrupted", "hops": ()}))
    train(Recipe.load(run.recipe_path), again.folder, resume=True)
    for name in ("adapter_model.safetensors", "tokenizer.json", "tokenizer_config.json", "ptune.json"):
        assert (again.adapter_path / name).read_bytes() == (run.adapter_path / name).read_bytes()


def test_evaluation_compares_with_the_base_without_trained_rows(run: Run) -> None:
    found = evaluate(run)
    assert found["before"]["loss"] != found["after"]["loss"]
    assert found["before"]["targets"] == found["after"]["targets"]


def test_full_training_saves_them_as_part_of_the_model(place: Path) -> None:
    run = train(recipe(place, "llama_tied", Full()), place / "full")
    assert run.record().hops[0].max_abs_logprob == 0.0
    saved = AutoModelForCausalLM.from_pretrained(run.model_path)
    assert saved.config.vocab_size == 602
    assert AutoTokenizer.from_pretrained(run.model_path).convert_tokens_to_ids(list(TOKENS)) == IDS
    assert evaluate(run)["after"]["loss"] > 0


def test_what_cannot_learn_rows_is_refused(place: Path) -> None:
    with pytest.raises(ValueError, match="FreezeExceptLast leaves all embeddings as they are"):
        Recipe(backbone=Backbone(new_tokens=TOKENS), method=FreezeExceptLast())
    with pytest.raises(RecipeError, match="PhiForCausalLM has a bias: use method Full"):
        Lora().apply(tiny_models.model("phi"), IDS)


@pytest.mark.parametrize(
    ("tokens", "reason"),
    [
        (("",), "'' cannot be a token"),
        ((" \n",), "cannot be a token"),
        (("<a> ",), "'<a> ' cannot be a token"),
        (("<a>", "<b>", "<a>"), "'<a>' is named twice"),
    ],
)
def test_texts_that_cannot_be_tokens_are_refused(tokens: tuple[str, ...], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Backbone(new_tokens=tokens)
