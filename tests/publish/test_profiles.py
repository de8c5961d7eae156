"""A chat bundle with int8 and int4 graphs beside fp32: proved, served by choice, refused where they drift."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.bundles import peft_folder
from support.chat_run import trained
from support.tiny_models import VOCAB, build, in_four_bits

from ptune import publish
from ptune.cli import main
from ptune.config.recipe import Backbone
from ptune.engine.decoder.engine import Engine
from ptune.errors import FormatError, ParityError, UsageError
from ptune.formats.bundle import Bundle, hashes
from ptune.formats.run import Run
from ptune.formats.whole_write import read_json, write_json
from ptune.verify import limits
from ptune.verify.decoder import company, held_tokens, profile
from ptune.verify.limits import HELD_TOKENS

RANDOM_TOP1 = 0.8  # the best two tokens of random weights are often close to each other


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("profiles")
    in_four_bits(build(folder / "model", "llama"))
    run = trained(folder)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("PROFILE_TOP1", "INT4_KEPT_TOP1"):
            patch.setattr(profile, name, RANDOM_TOP1)
        profiles = ("int8", "fp32", "int4")
        proof = publish.export_run(run, folder / "bundle", name="tuned", threads=1, profiles=profiles)
        assert proof.passed
        yield folder


def test_hops_and_files(place: Path) -> None:
    bundle = Bundle.open(place / "bundle")
    assert sorted(bundle.manifest.graphs) == ["fp32", "int4", "int8"]
    assert bundle.manifest.default_profile == "int8"
    base = {hop.name: hop for hop in bundle.manifest.hops}
    assert base["fp32 → int8"].positions >= HELD_TOKENS
    assert 0 < (base["fp32 → int8"].mean_kl or 0) < 0.01
    moved = base["int8: alone → in company"].max_abs_logprob
    assert moved is not None
    assert moved < 1e-2
    assert base["int8: alone → in company"].note.endswith("the base's moved by 0")
    assert base["fp32 → int4"].limit == f"mean KL ≤ 0.005 and top-1 ≥ {RANDOM_TOP1}"
    assert base["fp32 → int4"].note.startswith("weights as the source has them in 4 bits; ")
    assert base["int4: alone → in company"].note.endswith("the base's moved by 0")
    assert {"fp32 → int8", "fp32 → int4"} <= {hop.name for hop in bundle.adapter("tuned").hops}
    said = {}
    for name in bundle.manifest.graphs:
        with closing(
            Engine.open(bundle, profile=name, threads=1)
        ) as engine:  # its golden vectors are replayed
            said[name] = engine.logits([[5, 6, 7, 8]], ["tuned"])[0]
    for name in ("int8", "int4"):
        assert 0 < np.abs(said[name] - said["fp32"]).max() < 0.5


def test_verified_again_and_another_adapter_added(place: Path, tmp_path: Path) -> None:
    adapter = peft_folder(place / "model", tmp_path / "other", r=2, spread=0.2)
    record = publish.add(place / "bundle", adapter, "other", threads=1)
    assert record.parity == "measured"
    assert {"fp32 → int8", "fp32 → int4"} < {hop.name for hop in record.hops}
    companies = ["int4: alone → in company", "int8: alone → in company"]
    assert [hop.name for hop in record.hops if "alone" in hop.name] == companies
    proof = publish.verify(place / "bundle", threads=1)
    assert proof.passed
    assert {hop.name for hop in proof.adapters["other"]} >= {"fp32 → int8", "ONNX → engine"}


def test_other_golden_vectors_are_found_out(place: Path) -> None:
    bundle = Bundle.open(place / "bundle")
    path, known = bundle.golden_file("int8"), read_json(bundle.golden_file("int8"))
    assert known["tolerance"] == 0.05
    changed = {**known, "cases": [dict(known["cases"][0])]}
    changed["cases"][0]["logprobs"] = [[one + 0.2 for one in row] for row in known["cases"][0]["logprobs"]]
    write_json(path, changed)
    files = {
        **bundle.manifest.golden,
        "golden/int8.json": hashes(bundle.folder, "golden")["golden/int8.json"],
    }
    before = bundle.manifest
    bundle.write_manifest(before.model_copy(update={"golden": files}))
    try:
        with pytest.raises(ParityError, match="off by"):
            Engine.open(bundle.folder, threads=1, kernels="exact")
        Engine.open(bundle.folder, profile="fp32", threads=1).close()
    finally:
        write_json(path, known)
        bundle.write_manifest(before)


def test_a_profile_that_drifts_is_left_out_and_the_rest_is_kept(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("PROFILE_TOP1", "INT4_KEPT_TOP1"):
        monkeypatch.setattr(profile, name, RANDOM_TOP1)
    monkeypatch.setattr(profile, "INT4_KEPT_KL", 1e-9)
    out = tmp_path / "bundle"
    arguments = ["export", str(place / "run"), "--out", str(out), "--threads", "1"]
    assert main([*arguments, "--name", "tuned", "--profiles", "int4,int8,fp32"]) == 1
    said = capsys.readouterr().err
    assert said.index("int4 is left out: fp32 → int4: ") < said.index("the server")  # before what takes long
    assert f"error: {out} is without int4: fp32 → int4: " in said
    assert "but the limit is mean KL ≤ 1e-09" in said
    manifest = Bundle.open(out).manifest
    assert (list(manifest.graphs), manifest.default_profile) == (["fp32", "int8"], "int8")
    assert not list(out.rglob("*int4*"))
    assert all(hop.passed for hop in (*manifest.hops, *Bundle.open(out).adapter("tuned").hops))
    with pytest.raises(FormatError, match="no profile 'int4'"):
        Engine.open(out, profile="int4", threads=1)
    Engine.open(out, threads=1).close()


def test_nothing_is_measured_after_a_hop_that_drifts(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "PROFILE_KL", 1e-9)
    bundle, held = Bundle.open(place / "bundle"), held_tokens.load(place / "bundle")
    proof = profile.prove_profile(bundle, "int8", ["tuned"], held, threads=1, to_the_end=False)
    assert [hop.name for hop in proof.hops if not hop.form] == ["fp32 → int8"]
    assert not proof.passed
    proof = profile.prove_profile(bundle, "int8", ["tuned"], held, threads=1)
    names = [hop.name for hop in proof.hops if not hop.form]
    assert names == ["fp32 → int8", "int8: alone → in company", "fp32 → int8"]


def test_where_fp32_itself_drifts_nothing_is_kept(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profile, "PROFILE_TOP1", RANDOM_TOP1)
    monkeypatch.setattr(limits, "MAX_ABS_LOGPROB", 1e-12)
    with pytest.raises(ParityError, match="torch"):
        publish.export_run(
            Run.open(place / "run"), tmp_path / "bundle", name="tuned", threads=1, profiles=("fp32", "int8")
        )
    assert not (tmp_path / "bundle").exists()


def test_unknown_profiles(place: Path, tmp_path: Path) -> None:
    for profiles, words in ((("int8",), "fp32, which"), (("fp32", "int2"), "'fp32,int2'")):
        with pytest.raises(UsageError, match=words):
            publish.export_run(
                Run.open(place / "run"), tmp_path / "x", name="x", threads=1, profiles=profiles
            )


def test_what_depends_on_company_is_seen(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A single query in attention has a kernel of its own: without the second one, bits change."""
    from ptune.engine.decoder import step
    from ptune.engine.decoder.inputs import attention_metadata as views
    from ptune.engine.decoder.inputs.batch_layout import BatchLayoutCache

    monkeypatch.setattr(views, "FEW", 0)  # the grouped view has several queries anyway
    held = held_tokens.load(place / "bundle").sequences
    bundle = Bundle.open(place / "bundle")
    assert company.hop(bundle, "int8", held, threads=1).passed
    own = BatchLayoutCache
    monkeypatch.setattr(step, "BatchLayoutCache", lambda demands: own(replace(demands, least_queries=1)))
    hop = company.hop(bundle, "int8", held, threads=1)
    assert not hop.passed
    assert not hop.note.endswith("moved by 0")


def test_held_tokens_are_topped_up(place: Path) -> None:
    stored = held_tokens.load(place / "bundle")
    held = stored.sequences
    compared = sum(len(ids) - start for ids, start in held_tokens.own_parts(held))
    assert HELD_TOKENS <= compared < HELD_TOKENS + held_tokens.PIECE
    assert 0 < stored.own < HELD_TOKENS / 2, "the run has little data of its own"
    assert stored.origin.endswith("% of the text is the run's own, the rest an English sample")
    assert all(held_tokens.LEAST <= len(ids) <= held_tokens.PIECE for ids in held)
    assert max(max(ids) for ids in held) < VOCAB


def test_auto_takes_the_faster_of_those_that_hold(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profile, "PROFILE_TOP1", RANDOM_TOP1)
    monkeypatch.setattr(
        profile,
        "seconds_a_token",
        lambda bundle, name, threads: {"fp32": 3.0, "int8": 1.0, "int4": 2.0}[name],
    )
    run, out = Run.open(place / "run"), tmp_path / "auto"
    publish.export_run(run, out, name="tuned", threads=1, profiles=("auto",))
    assert Bundle.open(out).manifest.default_profile == "int8"
    monkeypatch.setattr(profile, "PROFILE_KL", 1e-9)
    proof = publish.export_run(run, out, name="tuned", threads=1, profiles=("auto",), force=True)
    manifest = Bundle.open(out).manifest
    assert (list(manifest.graphs), manifest.default_profile) == (["fp32", "int4"], "int4")
    assert not (out / "graphs" / "int8").exists()
    assert not (out / "golden" / "int8.json").exists()
    assert proof.passed
    Engine.open(out, threads=1).close()


def test_weights_that_are_not_in_four_bits_are_rounded_where_asked_and_never_by_auto(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("PROFILE_TOP1", "INT4_TOP1"):
        monkeypatch.setattr(profile, name, 0.1)
    monkeypatch.setattr(profile, "INT4_KL", 9.0)
    backbone = Backbone(model=str(build(tmp_path / "model", "llama")))
    publish.export_backbone(backbone, tmp_path / "asked", threads=1, profiles=("fp32", "int4"))
    bundle = Bundle.open(tmp_path / "asked")
    (hop,) = [hop for hop in bundle.manifest.hops if hop.name == "fp32 → int4"]
    assert bundle.manifest.graphs["int4"].kept == 0
    assert hop.limit == "mean KL ≤ 9 and top-1 ≥ 0.1"
    assert hop.note == (
        "100.0% of the weights rounded to 4 bits; 0% of the text is the run's own, the rest an English sample"
    )
    assert hop.mean_kl is not None
    assert hop.mean_kl > 0.005
    publish.export_backbone(backbone, tmp_path / "auto", threads=1, profiles=("auto",))
    assert list(Bundle.open(tmp_path / "auto").manifest.graphs) == ["fp32", "int8"]
    assert "int4 is left out: its source is not in 4 bits" in capsys.readouterr().err


def test_speed_is_measured(place: Path) -> None:
    assert 0 < profile.seconds_a_token(Bundle.open(place / "bundle"), "int8", 1) < 10
