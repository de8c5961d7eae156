"""An encoder-decoder's bundle: written, proved, and greedy as transformers' generate under mixed adapters."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from support.seq2seq_bundles import ADAPTERS, SOURCES, Made, adapter, generated, ids_of, make
from support.seq2seq_models import build_seq2seq, give_own_head
from support.tiny_models import decoded
from transformers import AutoModelForSeq2SeqLM

import ptune
from ptune import publish
from ptune.backbone.seq2seq import load_seq2seq
from ptune.config.recipe import Backbone, Data, Recipe, Train
from ptune.config.translation import Translation
from ptune.engine.seq2seq import golden
from ptune.engine.seq2seq.engine import Seq2SeqEngine
from ptune.engine.seq2seq.request import Seq2SeqRequest
from ptune.errors import AdapterError, FormatError, ParityError, RequestError, UsageError
from ptune.evaluation.options import EvaluationOptions
from ptune.evaluation.translation.served import evaluate_bundle
from ptune.fine_tune import train
from ptune.formats.bundle import BASE, Bundle
from ptune.methods.full import Full
from ptune.methods.lora import Lora
from ptune.publish.seq2seq import install_seq2seq
from ptune.verify.limits import MAX_ABS_LOGPROB
from ptune.verify.seq2seq.prove import prove_seq2seq
from ptune.verify.seq2seq.server import Question, agreement


@pytest.fixture(scope="module", params=["t5", "bart", "marian"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A bundle with two adapters of different rank."""
    return make(tmp_path_factory.mktemp("seq2seq"), str(request.param))


def test_every_hop_holds_its_limit(made: Made) -> None:
    model = load_seq2seq(Backbone(model=str(made.model)), device="cpu").model
    proof = prove_seq2seq(made.bundle, model, golden.load_pairs(made.bundle.folder), threads=1)
    assert {*proof.adapters} == {*ADAPTERS}
    assert all(hop.passed for hop in proof.hops), [hop for hop in proof.hops if not hop.passed]
    worst = max(hop.max_abs_logprob for hop in proof.hops if hop.max_abs_logprob is not None)
    assert worst <= MAX_ABS_LOGPROB
    served = [hop for hop in proof.hops if hop.name == "engine → server"]
    assert [hop.prompts for hop in served] == [len(SOURCES)] * (1 + len(ADAPTERS))
    assert all(hop.top1 == 1 for hop in served)


def test_a_token_that_differs_is_counted_unless_another_was_as_likely() -> None:
    question = Question("one", "a", (5, 6, 7), (False, True, False))
    for ids, same, compared in (((5, 6, 7), 3, 3), ((5, 9, 7), 2, 2), ((4, 6, 7), 0, 1), ((5, 6), 2, 3)):
        found = agreement(question, ids)
        assert (found.same, found.compared) == (same, compared)


def test_the_engine_writes_what_transformers_generates_while_adapters_are_mixed(made: Made) -> None:
    asked = [(name, text, most) for most in (9, 3) for name in (BASE, *ADAPTERS) for text in SOURCES]
    expected = [generated(made, *one) for one in asked]
    with closing(Seq2SeqEngine.open(made.bundle, threads=1, max_rows=5)) as engine:
        found = engine.generate([Seq2SeqRequest(ids_of(text), name, most) for name, text, most in asked])
    assert [one.ids for one in found] == expected
    assert len({one.ids for one in found}) > len(SOURCES)  # the adapters say something of their own
    if made.family == "bart":
        assert all(one.ids[0] == 1 for one in found)  # forced
    if made.family == "marian":
        assert all(0 not in one.ids for one in found)  # banned
    for one, (_, _, most) in zip(found, asked, strict=True):
        assert one.finish == ("length" if len(one.ids) == most else "stop")


def test_requests_have_limits_and_can_be_cancelled(made: Made) -> None:
    with closing(Seq2SeqEngine.open(made.bundle, threads=1, max_rows=2, max_waiting=3)) as engine:
        for wrong, said in (
            (Seq2SeqRequest(tuple([5] * 65)), "takes 64"),
            (Seq2SeqRequest((5,), max_tokens=65), "takes 64"),
            (Seq2SeqRequest((600,), max_tokens=4), "0 to 599"),
            (Seq2SeqRequest((5,), "nobody"), "no adapter 'nobody'"),
        ):
            with pytest.raises(RequestError, match=said):
                engine.submit(wrong)
        with pytest.raises(RequestError, match="one or more tokens"):
            Seq2SeqRequest(())
        ticket = engine.submit(Seq2SeqRequest(ids_of(SOURCES[0]), "one", 64))
        ticket.cancel()
        ended = ticket.result(60)
        assert ended.finish in ("cancelled", "length", "stop")
        if ended.finish == "cancelled":
            assert len(ended.ids) < 64
        again = engine.submit(Seq2SeqRequest(ids_of(SOURCES[0]), "one", 4)).result(60)
        engine.drop_adapter("one")
        with pytest.raises(RequestError, match="no adapter"):
            engine.submit(Seq2SeqRequest((5,), "one"))
        engine.load_adapter("one")
        assert engine.submit(Seq2SeqRequest(ids_of(SOURCES[0]), "one", 4)).result(60) == again


def test_a_bundle_that_was_changed_is_not_opened(made: Made) -> None:
    path = made.bundle.golden_path
    text, manifest = path.read_text(), made.bundle.manifest
    said = json.loads(text)
    said["cases"][0]["logprobs"][0] += 0.01
    try:
        path.write_text(json.dumps(said))
        with pytest.raises(FormatError, match="damaged"):
            Seq2SeqEngine.open(made.bundle, threads=1)
        changed = {
            name: digest for name, digest in manifest.golden.items() if not name.endswith("golden.json")
        }
        bundle = Bundle(made.bundle.folder, manifest.model_copy(update={"golden": changed}))
        with pytest.raises(ParityError, match="computes otherwise"):
            Seq2SeqEngine.open(bundle, threads=1)
    finally:
        path.write_text(text)


def test_an_adapter_of_another_model_is_refused(made: Made, tmp_path: Path) -> None:
    other = build_seq2seq(tmp_path / "other", "bart" if made.family == "t5" else "t5")
    adapter(other, tmp_path / "adapter", 2, 0)
    with pytest.raises(AdapterError, match="no linear layer of this name"):
        install_seq2seq(made.bundle, tmp_path / "adapter", "other")
    assert "other" not in Bundle.open(made.bundle.folder).manifest.adapters


def pairs_file(path: Path) -> Path:
    rows = [
        {"source": f"{a} {b}", "target": f"{b} {a}"} for a in ("open", "close") for b in map(str, range(12))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_model_that_was_trained_whole_keeps_its_instruction(tmp_path: Path) -> None:
    """Also for an adapter that says nothing of its own."""
    model, data = build_seq2seq(tmp_path / "t5", "t5"), pairs_file(tmp_path / "pairs.jsonl")
    recipe = Recipe(
        task=Translation(system="swap: "), backbone=Backbone(model=str(model)), method=Full(),
        data=Data(files=(data,)), train=Train(max_steps=2, lr=1e-3, batch_size=8),
    )  # fmt: skip
    run = train(recipe, tmp_path / "run")
    publish.export_run(run, tmp_path / "bundle", name="swap", threads=1)
    adapter(run.model_path, tmp_path / "foreign", 3, 5)
    install_seq2seq(Bundle.open(tmp_path / "bundle"), tmp_path / "foreign", "foreign")
    base = AutoModelForSeq2SeqLM.from_pretrained(run.model_path).eval()
    with closing(ptune.load(tmp_path / "bundle", threads=1)) as opened:
        for name in (BASE, "foreign"):
            assert opened.sentence("open 3", name).source == ids_of("swap: open 3")
        said = opened.translate(["open 3"], max_tokens=5)
    ids = base.generate(
        input_ids=torch.tensor([ids_of("swap: open 3")]), max_new_tokens=5, do_sample=False, num_beams=1
    )
    assert said == [decoded(ids[0].tolist()).strip()]


def test_from_a_run_to_a_bundle_and_another_adapter_into_it(tmp_path: Path) -> None:
    model, data = build_seq2seq(tmp_path / "t5", "t5"), pairs_file(tmp_path / "pairs.jsonl")
    recipe = Recipe(
        task=Translation(system="swap: "), backbone=Backbone(model=str(model)), method=Lora(r=4),
        data=Data(files=(data,)), train=Train(max_steps=4, lr=1e-2, batch_size=8),
    )  # fmt: skip
    run = train(recipe, tmp_path / "run")
    with pytest.raises(UsageError, match="without --merge"):
        publish.export_run(run, tmp_path / "bundle", name="swap", merge=True, threads=1)
    with pytest.raises(UsageError, match="one graph of each kind"):
        publish.export_run(run, tmp_path / "bundle", name="swap", threads=1, profiles=("fp32", "int8"))
    proof = publish.export_run(run, tmp_path / "bundle", name="swap", threads=1)
    assert [hop.name for hop in proof.adapters["swap"]] == [
        "trained → reloaded", "torch + peft → ONNX + adapter", "torch + peft → ONNX, (adapter − base)", "ONNX → engine",
        "engine → server",
    ]  # fmt: skip
    adapter(model, tmp_path / "foreign", 3, 5)
    record = publish.add(tmp_path / "bundle", tmp_path / "foreign", "foreign", threads=1)
    assert (record.parity, record.task, record.rank) == ("measured", "translation", 3)
    bundle = Bundle.open(tmp_path / "bundle")
    assert bundle.adapter("swap").system == "swap: "
    with closing(Seq2SeqEngine.open(bundle, threads=1)) as engine:
        assert engine.adapters == ["swap", "foreign"]
        assert np.isfinite(golden.replay(engine, bundle))
    with closing(ptune.load(tmp_path / "bundle", threads=1)) as opened:
        said = opened.translate(["open 3"], "swap", max_tokens=5)
        with pytest.raises(RequestError, match="send it in parts"):
            opened.translate(["word " * 300], "swap")
    live = PeftModel.from_pretrained(AutoModelForSeq2SeqLM.from_pretrained(model), run.adapter_path).eval()
    ids = live.generate(
        input_ids=torch.tensor([ids_of("swap: open 3")]), max_new_tokens=5, do_sample=False, num_beams=1
    )
    assert said == [decoded(ids[0].tolist()).strip()]
    found = evaluate_bundle(
        tmp_path / "bundle", tmp_path / "judged", EvaluationOptions(data=(data,), adapter="swap", threads=1)
    )
    assert found["examples"] == 24


def test_a_pretrained_model_is_exported_alone(tmp_path: Path) -> None:
    proof = publish.export_backbone(
        Backbone(model=str(build_seq2seq(tmp_path / "flan", "flan"))), tmp_path / "bundle", threads=1
    )
    assert proof.passed
    assert not proof.adapters


@pytest.mark.parametrize("family", ["t5", "bart", "marian"])
def test_a_head_of_its_own_beside_a_config_that_ties_it_is_trained_and_served(
    family: str, tmp_path: Path
) -> None:
    spec = Backbone(model=str(give_own_head(build_seq2seq(tmp_path / family, family))))
    data = Data(files=(pairs_file(tmp_path / "pairs.jsonl"),))
    steps = Train(max_steps=2, lr=1e-2, batch_size=8)
    run = train(
        Recipe(task=Translation(), backbone=spec, method=Full(), data=data, train=steps), tmp_path / "run"
    )
    saved = AutoModelForSeq2SeqLM.from_pretrained(run.model_path).eval()
    assert not torch.equal(saved.lm_head.weight, saved.get_input_embeddings().weight)
    proofs = [
        publish.export_backbone(spec, tmp_path / "base", threads=1),
        publish.export_run(run, tmp_path / "bundle", name="swap", threads=1),
    ]
    assert all(proof.passed for proof in proofs)
    ids = saved.generate(
        input_ids=torch.tensor([ids_of("open 3")]), max_new_tokens=5, do_sample=False, num_beams=1
    )
    with closing(ptune.load(tmp_path / "bundle", threads=1)) as opened:
        assert opened.translate(["open 3"], max_tokens=5) == [decoded(ids[0].tolist()).strip()]
