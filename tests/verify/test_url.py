"""`ptune verify PLACE --url URL`: a server is right, or is told what is the matter with it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, quants
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.numpy import load_file, save_file
from support.bundles import peft_folder, with_peft
from support.fake_chat_model import serving
from support.foreign_server import Foreign, standing
from support.tiny_models import CHATML, build, conversations, write_jsonl
from transformers import AutoModelForCausalLM

from ptune import publish
from ptune.cli import main
from ptune.codecs.chat import ChatCodec
from ptune.config.chat import Chat
from ptune.config.recipe import Backbone, Data, Recipe, Train
from ptune.errors import FormatError
from ptune.fine_tune import train
from ptune.formats.bundle import Bundle
from ptune.formats.parity_json import FILE, Parity, digest_of, read_parity, write_parity
from ptune.formats.run import Run
from ptune.methods.lora import Lora
from ptune.publish import pipeline
from ptune.publish.decoder import Decoder
from ptune.publish.decoder_run import reference
from ptune.tasks.chat.infer import load
from ptune.verify.endpoint.answers import by_chat, by_completions
from ptune.verify.endpoint.client import Endpoint
from ptune.verify.endpoint.verdict import Figures, Verdict, judged
from ptune.verify.parity_reference import measured, prompts_of
from ptune_serve.app import create_app

OTHER = CHATML.replace("<|im_start|>", "### ").replace("<|im_end|>", "")


@dataclass(frozen=True)
class Place:
    folder: Path
    url: str

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A served bundle with one adapter as it should be, one with lora_alpha doubled and one with another chat template."""
    folder = tmp_path_factory.mktemp("place")
    base = build(folder / "model", "llama")
    adapter = peft_folder(base, folder / "tuned", spread=0.15)
    model = replace(Decoder.of_backbone(Backbone(model=str(base))), adapters={"tuned": adapter})
    assert pipeline.export(model, folder / "bundle", threads=1).passed
    doubled = Path(shutil.copytree(adapter, folder / "doubled"))
    config = json.loads((doubled / "adapter_config.json").read_text())
    (doubled / "adapter_config.json").write_text(
        json.dumps({**config, "lora_alpha": 2 * config["lora_alpha"]})
    )
    templated = Path(shutil.copytree(adapter, folder / "templated"))
    (templated / "chat_template.jinja").write_text(OTHER)
    for name in ("doubled", "templated"):
        publish.add(folder / "bundle", folder / name, name, prove_it=False, threads=1)
    opened = load(folder / "bundle", threads=1)
    try:
        with serving(create_app(opened)) as url:
            yield Place(folder, url)
    finally:
        opened.close()


@pytest.mark.parametrize(
    ("model", "kind", "code"),
    [
        ("tuned", "right", 0),
        ("base", "adapter not applied", 1),
        ("doubled", "wrong scale", 1),
        ("templated", "wrong template", 1),
    ],
)
def test_a_server_of_our_own(
    place: Place, model: str, kind: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["verify", str(place.bundle), "--url", f"{place.url}/v1", "--model", model, "--adapter", "tuned"]
    assert main(asked) == code
    said = capsys.readouterr().out
    assert f"verdict: {kind}\n" in said
    assert "a part of the whole" in said
    if model == "doubled":
        assert "about 2.00 times" in said
        assert "lora_alpha is doubled" in said


def test_the_folder_alone_is_enough_and_peft_still_loads_it(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = place.bundle / "adapters" / "tuned"
    assert main(["verify", str(folder), "--url", place.url, "--model", "tuned"]) == 0
    parity = read_parity(folder)
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(place.folder / "model", dtype=torch.float32), str(folder)
    ).eval()
    for prompt in parity.prompts:
        ids = torch.tensor([[*prompt.ids, *prompt.answer]])
        for name in ("adapter", "base"):
            with torch.no_grad():
                if name == "base":
                    with model.disable_adapter():
                        logits = model(input_ids=ids).logits[0]
                else:
                    logits = model(input_ids=ids).logits[0]
            rows = torch.log_softmax(logits[len(prompt.ids) - 1 : -1], -1)
            for row, tokens, said in zip(rows, prompt.tokens, prompt.log_probs[name], strict=True):
                np.testing.assert_allclose(row[list(tokens)].numpy(), said, atol=1e-4)
    bundle = Bundle.open(place.bundle)
    assert FILE in bundle.adapter("tuned").files


def test_what_must_be_said_is_asked_for(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    several = ["verify", str(place.bundle), "--url", place.url]
    assert main(several) == 2
    assert "which with --adapter" in capsys.readouterr().err
    assert main(["verify", str(place.bundle), "--adapter", "tuned"]) == 2
    assert main([*several, "--adapter", "tuned", "--api-key-env", "NO_SUCH_VARIABLE_HERE"]) == 2
    assert main([*several, "--adapter", "doubled"]) == 1
    assert "has no parity.json" in capsys.readouterr().err
    assert main(["verify", str(place.bundle), "--url", "file:///etc/passwd", "--adapter", "tuned"]) == 2


def test_a_run_gets_its_file_and_is_held_to_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = build(tmp_path / "model", "llama")
    data = write_jsonl(tmp_path / "data.jsonl", conversations(40))
    recipe = Recipe(
        task=Chat(system="Answer like Bierce."),
        method=Lora(r=4),
        backbone=Backbone(model=str(base), dtype="float32"),
        data=Data(files=(data,), validation_share=0.45),
        train=Train(max_steps=4, lr=5e-2, batch_size=4),
    )
    run = train(recipe, tmp_path / "run")
    folder = Run.open(tmp_path / "run").adapter_path
    assert not (folder / FILE).exists()
    codec = ChatCodec.open(tmp_path / "run" / "codec")
    with standing(Foreign(with_peft(base, folder), codec)) as url:
        assert main(["verify", str(tmp_path / "run"), "--url", url]) == 0, run
    written = (folder / FILE).read_bytes()
    assert all(one.messages and one.messages[0]["role"] == "system" for one in read_parity(folder).prompts)
    with standing(Foreign(with_peft(base, None), codec)) as url:
        assert main(["verify", str(tmp_path / "run"), "--url", url]) == 1
    assert (folder / FILE).read_bytes() == written
    assert "adapter not applied" in capsys.readouterr().out


def in_eight_bits(folder: Path) -> Path:
    """Makes a decoder's weights what GGUF's Q8_0 leaves of them."""
    file = folder / "model.safetensors"
    kind = GGMLQuantizationType.Q8_0
    tensors = {
        name: quants.dequantize(quants.quantize(weight, kind), kind) if weight.ndim == 2 else weight
        for name, weight in load_file(file).items()
    }
    save_file(tensors, file, metadata={"format": "pt"})
    return folder


@dataclass(frozen=True)
class Held:
    base: Path
    adapter: Path
    codec: ChatCodec
    parity: Parity

    def asked(self, foreign: Foreign) -> tuple[list[Figures], Verdict]:
        with standing(foreign) as url, Endpoint(url) as endpoint:
            ways = [ask(endpoint, "the-model", self.parity) for ask in (by_completions, by_chat)]
        return judged([way for way in ways if way is not None], self.parity)


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Held:
    """An adapter whose template begins every conversation with a BOS."""
    folder = tmp_path_factory.mktemp("held")
    base = build(folder / "model", "llama")
    adapter = peft_folder(base, folder / "adapter", spread=0.15)
    loaded = reference(Backbone(model=str(base)))
    codec = loaded.codec.with_template("{{ bos_token }}" + CHATML)
    parity = measured(loaded.model, adapter, codec, loaded.identity, prompts_of(codec, []))
    assert parity is not None
    assert parity.bos == 1
    return Held(base, adapter, codec, parity)


@pytest.mark.parametrize("shape", ["llama", "vllm", "text"])
@pytest.mark.parametrize("tuned", [True, False])
def test_servers_of_other_shapes(held: Held, shape: str, tuned: bool) -> None:
    model = with_peft(held.base, held.adapter if tuned else None)
    figures, verdict = held.asked(Foreign(model, held.codec, shape=shape, most_logprobs=5))  # type: ignore[arg-type]
    assert verdict.kind == ("right" if tuned else "adapter not applied")
    assert figures[0].way == {"llama": "completions, tokens", "vllm": "completions, tokens, echo", "text": "completions, text"}[shape]  # fmt: skip
    assert (figures[0].same == 1.0) is tuned
    assert (figures[0].first_divergence is None) is tuned


@pytest.mark.parametrize(("bos", "kind"), [("more", "doubled BOS"), ("less", "missing BOS")])
@pytest.mark.parametrize("usage", [True, False])
@pytest.mark.parametrize("in_texts", [True, False])
def test_a_bos_too_many_or_too_few(held: Held, bos: str, kind: str, usage: bool, in_texts: bool) -> None:
    model = with_peft(held.base, held.adapter)
    foreign = Foreign(model, held.codec, bos=bos, usage=usage, bos_in_texts=in_texts)  # type: ignore[arg-type]
    assert held.asked(foreign)[1].kind == kind


@pytest.mark.parametrize("usage", [True, False])
def test_another_template_is_seen_without_being_told(held: Held, usage: bool) -> None:
    model = with_peft(held.base, held.adapter)
    foreign = Foreign(model, held.codec.with_template(OTHER), usage=usage)
    assert held.asked(foreign)[1].kind == "wrong template"


@pytest.mark.parametrize("factor", [0.25, 0.5, 1.5, 3.0])
def test_the_factor_of_a_wrong_scale_is_told(held: Held, factor: float) -> None:
    model = with_peft(held.base, held.adapter)
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.scaling = {name: scale * factor for name, scale in module.scaling.items()}
    figures, verdict = held.asked(Foreign(model, held.codec, shape="vllm"))
    assert verdict.kind == "wrong scale"
    assert figures[0].factor == pytest.approx(factor, rel=0.15)


def test_rounded_weights_are_told_from_the_rest(held: Held, tmp_path: Path) -> None:
    rounded = in_eight_bits(Path(shutil.copytree(held.base, tmp_path / "rounded")))
    for name, adapter, kind in (("tuned", held.adapter, "quantised"), ("bare", None, "adapter not applied")):
        _, verdict = held.asked(Foreign(with_peft(rounded, adapter), held.codec, shape="vllm"))
        assert verdict.kind == kind, (name, verdict)


def test_another_model_altogether_cannot_be_told(held: Held, tmp_path: Path) -> None:
    other = build(tmp_path / "other", "llama", seed=3)
    verdict = held.asked(Foreign(with_peft(other, None), held.codec))[1]
    assert (verdict.kind, verdict.exit_code) == ("cannot tell", 3)


def test_an_adapter_that_changes_nothing_cannot_be_told_from_the_base(held: Held, tmp_path: Path) -> None:
    silent = peft_folder(held.base, tmp_path / "silent", spread=0.0)
    loaded = reference(Backbone(model=str(held.base)))
    parity = measured(loaded.model, silent, held.codec, loaded.identity, prompts_of(held.codec, []))
    assert parity is not None
    verdict = replace(held, parity=parity).asked(Foreign(with_peft(held.base, None), held.codec))[1]
    assert verdict.kind == "cannot tell"


def test_a_changed_file_is_refused(held: Held, tmp_path: Path) -> None:
    write_parity(tmp_path, held.parity)
    assert read_parity(tmp_path) == held.parity
    value = json.loads((tmp_path / FILE).read_text())
    assert value["format"] == 1
    assert value["digest"] == digest_of(value)
    value["prompts"][0]["log_probs"]["adapter"][0][0] -= 1.0
    (tmp_path / FILE).write_text(json.dumps(value))
    with pytest.raises(FormatError, match="digest"):
        read_parity(tmp_path)
    (tmp_path / FILE).write_text(json.dumps({**value, "format": 2}))
    with pytest.raises(FormatError, match="format 2"):
        read_parity(tmp_path)
