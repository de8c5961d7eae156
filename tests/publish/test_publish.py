"""Runs become bundles and merged folders; each is what was trained, and says so in numbers."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from support.bundles import peft_folder
from support.tiny_models import CHATML, build, conversations, write_jsonl

from ptune import publish
from ptune.backbone.load import Loaded
from ptune.backbone.load import load as load_backbone
from ptune.cli import add as cli_add
from ptune.cli import verify as cli_verify
from ptune.codecs.chat import ChatCodec
from ptune.config.chat import Chat
from ptune.config.recipe import Backbone, Data, Recipe, Train
from ptune.engine.decoder.engine import Engine
from ptune.errors import AdapterError, BackboneError, DataError, ParityError, UsageError
from ptune.fine_tune import train
from ptune.formats.bundle import Bundle
from ptune.formats.run import Run
from ptune.methods.full import Full
from ptune.methods.lora import Lora
from ptune.publish import decoder
from ptune.tasks.chat.infer import ChatModel, load
from ptune.verify.decoder.graph import PlainGraph
from ptune.verify.proof import Proof

SYSTEM = "Answer like Bierce."


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, data, and a run with a system message of its own."""
    folder = tmp_path_factory.mktemp("place")
    build(folder / "model", "llama")
    write_jsonl(folder / "data.jsonl", conversations(40))
    train(recipe(folder, Lora(r=4), Chat(system=SYSTEM)), folder / "lora")
    return folder


def recipe(folder: Path, method: Lora | Full, task: Chat, quantize: str = "none") -> Recipe:
    return Recipe(
        task=task,
        method=method,
        backbone=Backbone.model_validate(
            {"model": str(folder / "model"), "quantize": quantize, "dtype": "float32"}
        ),
        data=Data(files=(folder / "data.jsonl",), validation_share=0.45),
        train=Train(max_steps=3, lr=2e-2, batch_size=4),
    )


@pytest.fixture(scope="module")
def bundle(place: Path) -> Path:
    proof = publish.export_run(Run.open(place / "lora"), place / "bundle", name="tuned", threads=1)
    assert proof.passed
    assert next(hop.name for hop in proof.adapters["tuned"]) == "trained → reloaded"
    return place / "bundle"


def test_a_prompt_is_served_as_it_was_trained(place: Path, bundle: Path) -> None:
    train(recipe(place, Lora(r=2), Chat()), place / "plain")
    publish.add(bundle, place / "plain" / "adapter", "plain", threads=1)
    moody = place / "moody.jinja"
    moody.write_text("{{ mood }}" + CHATML)
    asked = Chat(template=moody, chat_template_kwargs={"mood": "calm: "}, thinking_token_budget=9)
    train(recipe(place, Lora(r=2), asked), place / "calm")
    publish.add(bundle, place / "calm" / "adapter", "calm", threads=1)
    messages = [{"role": "user", "content": "Define: Patience"}]
    model = load(bundle, threads=1)
    try:
        for name, run in (("tuned", "lora"), ("plain", "plain"), ("calm", "calm")):
            trained = ChatCodec.open(place / run / "codec").encode_prompt(messages)
            assert model.codec_for(name).encode_prompt(messages) == trained
        assert spoken(model, "tuned") != spoken(model, "plain")
        assert model.codec_for("calm").spell(spoken(model, "calm")).startswith("calm: ")
        assert model.codec_for("calm").defaults.thinking_token_budget == 9
        others = (place / "calm" / "adapter" / "chat_template.jinja").read_text()
        assert others.endswith(moody.read_text())
        assert "calm: " in others
    finally:
        model.close()


def spoken(model: ChatModel, name: str) -> list[int]:
    return model.codec_for(name).encode_prompt([{"role": "user", "content": "x"}])


def test_an_adapter_of_another_base_is_refused(place: Path, bundle: Path) -> None:
    train(recipe(place, Lora(r=2), Chat(), "nf4"), place / "nf4")
    with pytest.raises(AdapterError, match="another base"):
        publish.add(bundle, place / "nf4" / "adapter", "nf4", threads=1)


def test_a_bfloat16_run_exports_the_rounded_base_that_it_was_trained_on(place: Path) -> None:
    asked = recipe(place, Lora(r=2), Chat())
    asked = asked.model_copy(update={"backbone": asked.backbone.model_copy(update={"dtype": "bfloat16"})})
    train(asked, place / "run_bf16")
    proof = publish.export_run(Run.open(place / "run_bf16"), place / "bundle_bf16", name="b", threads=1)
    names = [hop.name for hop in proof.adapters["b"]]
    assert names[:2] == ["trained → reloaded", "bfloat16 kernel → float32 on the same base"]
    base = Bundle.open(place / "bundle_bf16").manifest.base
    assert (base.dtype, base.hash) == ("bfloat16", Run.open(place / "run_bf16").record().base.hash)
    assert base.hash != Run.open(place / "lora").record().base.hash
    assert publish.verify(place / "bundle_bf16", threads=1).passed


@pytest.mark.parametrize("quantize", ["nf4", "int8"])
def test_a_quantised_run_exports_the_base_it_was_trained_on(quantize: str, place: Path) -> None:
    run = place / f"run_{quantize}"
    train(recipe(place, Lora(r=2), Chat(), quantize), run)
    proof = publish.export_run(Run.open(run), place / f"bundle_{quantize}", name="q", threads=1)
    assert proof.passed
    names = [hop.name for hop in proof.adapters["q"]]
    assert names[:2] == ["trained → reloaded", f"{quantize} kernel → float32 on the dequantised base"]
    base = Bundle.open(place / f"bundle_{quantize}").manifest.base
    assert (base.quantize, base.hash) == (quantize, Run.open(run).record().base.hash)
    assert publish.verify(place / f"bundle_{quantize}", threads=1).passed


def test_a_large_reference_is_not_in_memory_beside_a_graph(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is dropped before a graph is opened, read again for the proof, and dropped again: with the same figures."""
    read: list[weakref.ref[object]] = []

    def recorded(load: Callable[..., Loaded], *arguments: object, **options: object) -> Loaded:
        loaded = load(*arguments, **options)
        read.append(weakref.ref(loaded.model))
        return loaded

    def alone(opened: Callable[..., object], *arguments: object, **options: object) -> object:
        gc.collect()
        assert not any(one() for one in read)
        return opened(*arguments, **options)

    usual = publish.export_run(Run.open(place / "lora"), tmp_path / "usual", name="tuned", threads=1)
    monkeypatch.setattr(decoder, "SMALL_BYTES", 0)
    monkeypatch.setattr("ptune.publish.decoder_run.load", partial(recorded, load_backbone))
    monkeypatch.setattr("ptune.verify.decoder.prove.PlainGraph", partial(alone, PlainGraph))
    monkeypatch.setattr(Engine, "open", partial(alone, Engine.open))
    lean = publish.export_run(Run.open(place / "lora"), tmp_path / "lean", name="tuned", threads=1)
    assert len(read) == 2
    measured = [(proof.base[:2], proof.adapters["tuned"][:3]) for proof in (lean, usual)]
    assert measured[0] == measured[1]


def test_full_fine_tuning_is_served(place: Path) -> None:
    train(recipe(place, Full(), Chat()), place / "full")
    proof = publish.export_run(Run.open(place / "full"), place / "bundle_full", name="full", threads=1)
    assert proof.passed
    assert proof.base[0].name == "trained → reloaded"
    assert publish.verify(place / "bundle_full", threads=1).passed


def test_a_merged_bundle_is_proved_against_the_live_adapter(place: Path) -> None:
    out = place / "bundle_merged"
    proof = publish.export_run(Run.open(place / "lora"), out, name="tuned", merge=True, threads=1)
    assert proof.passed
    assert proof.base[0].name == "live adapter → merged"
    manifest = Bundle.open(out).manifest
    assert not manifest.adapters
    assert manifest.base.hash != Run.open(place / "lora").record().base.hash
    assert publish.verify(out, threads=1).passed


def test_a_lossy_merge_is_refused_and_saves_nothing(place: Path) -> None:
    with pytest.raises(ParityError, match=r"bfloat16 loses too much.*--limit"):
        publish.merge_run(Run.open(place / "lora"), place / "bf16", "bfloat16", limit=1e-5)
    assert not (place / "bf16").exists()
    merge = publish.merge_run(Run.open(place / "lora"), place / "fp32", "float32")
    hop, lost = merge.hop, merge.update_error
    assert hop.passed
    assert lost is not None
    assert lost < 1e-4


def test_what_changed_since_training_is_refused(place: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(place / "lora", tmp_path / "lora"))
    build(place / "model", "llama", seed=7)
    try:
        with pytest.raises(BackboneError, match="is not the base"):
            publish.export_run(Run.open(copy), tmp_path / "b", name="x", threads=1)
    finally:
        build(place / "model", "llama")
    before = (place / "data.jsonl").read_text()
    try:
        (place / "data.jsonl").write_text(before + before.splitlines()[0] + "\n")
        with pytest.raises(DataError, match=r"data\.jsonl"):
            publish.export_run(Run.open(copy), tmp_path / "b", name="x", threads=1)
    finally:
        (place / "data.jsonl").write_text(before)
    assert not (tmp_path / "b").exists()


def test_the_code_of_a_base_runs_only_where_it_is_trusted(
    place: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base has moved and brings code of its own now."""
    base = with_own_code(Path(shutil.copytree(place / "model", tmp_path / "own")))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.setattr(decoder, "prove", lambda *_, **__: Proof((), {}))  # that has tests of its own
    where = ["--backbone", str(base)]
    add = [str(bundle), str(place / "lora"), "--name", "again", *where]
    for command, arguments in ((cli_verify.run, [str(bundle), *where]), (cli_add.run, add)):
        with pytest.raises(BackboneError, match=r"code of its own.* --trust-remote-code"):
            command(arguments)
        assert command([*arguments, "--trust-remote-code"]) == 0


def with_own_code(folder: Path) -> Path:
    """The model in `folder` under a name that only the code beside it knows."""
    config = json.loads((folder / "config.json").read_text())
    own = {"AutoConfig": "mine.MineConfig", "AutoModelForCausalLM": "mine.MineForCausalLM"}
    config |= {"model_type": "mine", "architectures": ["MineForCausalLM"], "auto_map": own}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n\n"
        "class MineConfig(LlamaConfig):\n    model_type = 'mine'\n\n"
        "class MineForCausalLM(LlamaForCausalLM):\n    config_class = MineConfig\n"
    )
    return folder


def test_an_unfinished_run_is_refused(place: Path, tmp_path: Path) -> None:
    run = Run(shutil.copytree(place / "lora", tmp_path / "lora"))
    run.write_record(run.record().model_copy(update={"status": "interrupted"}))
    with pytest.raises(UsageError, match="--resume"):
        publish.export_run(run, tmp_path / "b", name="x", threads=1)


def test_a_foreign_adapter_with_a_broken_template_is_refused(
    place: Path, bundle: Path, tmp_path: Path
) -> None:
    folder = peft_folder(place / "model", tmp_path / "foreign", spread=0.2)
    (folder / "chat_template.jinja").write_text("{% for %}")
    with pytest.raises(AdapterError, match="template"):
        publish.add(bundle, folder, "foreign", threads=1)
