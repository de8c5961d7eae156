"""LoRA of a decoder's head and embedding from training to serving, merged and not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from support import tiny_models
from transformers import AutoModelForCausalLM

from ptune import publish
from ptune.backbone.load import load
from ptune.config.recipe import Backbone, Data, Recipe, Train
from ptune.errors import RecipeError, UsageError
from ptune.fine_tune import train
from ptune.formats.bundle import Bundle
from ptune.formats.run import Run
from ptune.methods.lora import Lora
from ptune.tasks.chat import infer

X = torch.tensor([[3, 60, 17, 101, 42, 301, 9]])


@pytest.fixture(scope="module", params=["llama", "llama_tied"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    place = tmp_path_factory.mktemp(request.param)
    tiny_models.build(place / "model", request.param)
    tiny_models.write_jsonl(place / "data.jsonl", tiny_models.conversations(16))
    wanted = Recipe(
        backbone=Backbone(model=str(place / "model"), dtype="float32"),
        method=Lora(r=2, ends=("head", "embedding")),
        data=Data(files=(place / "data.jsonl",), validation_share=0.3),
        train=Train(max_steps=4, lr=2e-2, batch_size=4, schedule="constant"),
    )
    return train(wanted, place / "run")


def logprobs(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(X).logits.double().log_softmax(-1)


def live(run: Run) -> PeftModel:
    return PeftModel.from_pretrained(
        load(Recipe.load(run.recipe_path).backbone).model, str(run.adapter_path)
    ).eval()


def test_the_adapter_holds_factors_alone(run: Run) -> None:
    tensors = load_file(run.adapter_path / "adapter_model.safetensors")
    assert all("lora_" in name for name in tensors)
    assert {name.rpartition(".lora_")[0] for name in tensors} >= {
        "base_model.model.lm_head",
        "base_model.model.model.embed_tokens",
        "base_model.model.model.layers.1.mlp.down_proj",
    }
    assert run.record().hops[0].max_abs_logprob == 0.0


def test_it_is_proved_and_served_beside_its_base(run: Run, tmp_path: Path) -> None:
    assert publish.export_run(run, tmp_path / "bundle", name="x", threads=1).passed
    ends = Bundle.open(tmp_path / "bundle").decoder.ends
    assert ends is not None
    assert ends.kinds == ("head", "embedding")
    model = infer.load(tmp_path / "bundle", threads=1)
    try:
        [found] = model.engine.logits([X[0].tolist()], ["x"])
        assert (torch.tensor(found).double().log_softmax(-1) - logprobs(live(run))[0]).abs().max() < 1e-3
    finally:
        model.close()
    assert publish.verify(tmp_path / "bundle", threads=1).passed


def test_a_pretrained_model_is_prepared_for_adapters(run: Run, tmp_path: Path) -> None:
    spec = Recipe.load(run.recipe_path).backbone
    publish.export_backbone(spec, tmp_path / "bundle", threads=1, sockets=("embedding", "head"))
    ends = Bundle.open(tmp_path / "bundle").decoder.ends
    assert ends is not None
    assert ends.kinds == ("head", "embedding")
    assert publish.add(tmp_path / "bundle", run.adapter_path, "x", threads=1).parity == "measured"


def test_a_merged_model_reads_back_as_it_was(run: Run, tmp_path: Path) -> None:
    publish.merge_run(run, tmp_path / "merged")
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    assert (logprobs(saved) - logprobs(live(run))).abs().max() < 1e-4


def test_what_has_no_such_ends_is_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"backbone\.new_tokens trains rows of the head"):
        Lora(ends=("head",)).apply(tiny_models.model("llama"), [600])
    with pytest.raises(UsageError, match="there are head, embedding, tokens"):
        publish.export_run(run, tmp_path / "b", name="x", threads=1, sockets=("heads",))
