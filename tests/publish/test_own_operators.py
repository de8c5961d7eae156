"""What an export finds of own operators: a row for each form, its golden vectors, and what a server then does."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import pytest
from support.bundles import peft_folder
from support.chat_run import trained
from support.tiny_models import build, in_four_bits

from ptune import publish
from ptune.cli.proof_table import show
from ptune.engine.decoder import engine as serving
from ptune.engine.decoder import forms
from ptune.engine.decoder.engine import Engine
from ptune.engine.decoder.golden import Replay
from ptune.engine.kernels import PACKAGE
from ptune.formats.bundle import Bundle, Hop
from ptune.formats.whole_write import read_json
from ptune.parity import Array
from ptune.verify.decoder import gate, profile
from ptune.verify.decoder.held_tokens import OwnPart
from ptune.verify.proof import Proof

pytestmark = pytest.mark.skipif(
    find_spec(PACKAGE) is None,
    reason="ptune-kernels is not built: scripts/kernels does it where a C++ compiler and onnxruntime's header are",
)
RANDOM_TOP1 = 0.8  # the best two tokens of random weights are often close to each other
OWN, ADAPTERS = "own attention", "own adapters"
whole = gate.of_engine


def spoiled(profiles: Sequence[str]) -> object:
    """Own attention that says something else in these profiles."""

    def of_engine(engine: Engine, texts: Sequence[OwnPart], name: str) -> Iterator[Array]:
        assert engine.form is not None
        wrong = engine.form.profile in profiles and engine.form.attends
        return (rows[:, ::-1] if wrong else rows for rows in whole(engine, texts, name))

    return of_engine


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Proof]]:
    """A run's bundle, in whose int4 graph own attention misses the gate."""
    folder = tmp_path_factory.mktemp("own")
    in_four_bits(build(folder / "model", "llama"))
    run = trained(folder)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("PROFILE_TOP1", "INT4_KEPT_TOP1"):
            patch.setattr(profile, name, RANDOM_TOP1)
        patch.setattr(gate, "of_engine", spoiled(["int4"]))
        profiles = ("fp32", "int8", "int4")
        proof = publish.export_run(run, folder / "bundle", name="tuned", threads=1, profiles=profiles)
        yield folder, proof


@pytest.fixture
def place(exported: tuple[Path, Proof], tmp_path: Path) -> Path:
    """A copy of the folder."""
    return Path(shutil.copytree(exported[0], tmp_path / "copy"))


def rows(hops: Sequence[Hop]) -> dict[str, Hop]:
    return {hop.name: hop for hop in hops}


def test_every_form_has_a_row_and_the_gate_of_its_profile(exported: tuple[Path, Proof]) -> None:
    bundle = Bundle.open(exported[0] / "bundle")
    for hops in (bundle.manifest.hops, bundle.adapter("tuned").hops):
        found = rows(hops)
        for name in ("ONNX → engine", "fp32 → int8", "fp32 → int4"):
            plain, own = found[name], found[f"{name}, {OWN}"]
            assert own.limit == plain.limit
            assert own.positions == plain.positions
            assert re.fullmatch(r"ptune-kernels \d+: attention and adapters", own.note)
            assert not plain.form
        assert found[f"fp32 → int8, {OWN}"].form.startswith(
            "int8: own attention and adapters of ptune-kernels "
        )
        assert found[f"fp32 → int8, {OWN}"].passed
        assert 0 < (found[f"fp32 → int8, {OWN}"].mean_kl or 0) < 0.01


def test_one_that_misses_is_refused_with_its_figures_and_the_rest_is_kept(
    exported: tuple[Path, Proof], capsys: pytest.CaptureFixture[str]
) -> None:
    """What is used in its place is measured, too, for adapters: the base's bits are those of the plain graph."""
    place, proof = exported
    bundle = Bundle.open(place / "bundle")
    assert proof.passed
    assert not proof.refused
    base, adapter = rows(bundle.manifest.hops), rows(bundle.adapter("tuned").hops)
    refused = base[f"fp32 → int4, {OWN}"]
    assert not refused.passed
    assert refused.top1 is not None
    assert refused.top1 < RANDOM_TOP1
    assert adapter[f"fp32 → int4, {ADAPTERS}"].passed
    assert f"fp32 → int4, {ADAPTERS}" not in base
    assert not any(ADAPTERS in name for name in adapter if "int4" not in name)
    show(proof)
    lines = capsys.readouterr().out.splitlines()
    assert all("not used" in line for line in lines if "fp32 → int4, own " in line and "adapters" not in line)
    assert sum("not used" in line for line in lines) == 2  # for the base and the adapter
    assert sorted(path.name for path in bundle.golden_path.parent.glob("*.own.json")) == [
        "golden.own.json",
        "int8.own.json",
    ]


def test_a_server_goes_by_the_record(exported: tuple[Path, Proof], monkeypatch: pytest.MonkeyPatch) -> None:
    """Own attention where it was proved, by its own golden vectors and in one engine."""
    replayed: list[object] = []

    class Watched(Replay):
        def __init__(self, engine: Engine, content: dict[str, object]) -> None:
            replayed.append(content.get("form"))
            super().__init__(engine, content)

    monkeypatch.setattr("ptune.engine.decoder.golden.Replay", Watched)
    monkeypatch.setattr(serving, "Replay", Watched)
    for name, own in (("fp32", True), ("int8", True), ("int4", False)):
        with closing(Engine.open(exported[0] / "bundle", profile=name, threads=1)) as engine:
            assert engine._step.graphs.own_attention == own
        assert [told is not None for told in replayed] == [own]
        assert not own or str(replayed[0]).startswith(f"{name}: own attention and adapters of ptune-kernels ")
        replayed.clear()


def test_an_adapter_that_is_added_is_measured_with_what_is_used(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And refuses it for all where it misses its gate."""
    adapter = peft_folder(place / "model", tmp_path / "other", r=2, spread=0.2)
    monkeypatch.setattr(gate, "of_engine", spoiled(["int8"]))
    found = rows(publish.add(place / "bundle", adapter, "other", threads=1).hops)
    assert found[f"ONNX → engine, {OWN}"].passed
    assert not found[f"fp32 → int8, {OWN}"].passed
    assert found[f"fp32 → int8, {ADAPTERS}"].passed
    assert f"fp32 → int4, {OWN}" not in found  # refused before
    assert found[f"fp32 → int4, {ADAPTERS}"].passed
    bundle = Bundle.open(place / "bundle")
    golden = bundle.golden_path.with_name("golden.own.json")
    assert {case["adapter"] for case in read_json(golden)["cases"]} == {"base", "tuned", "other"}
    assert not golden.with_name("int8.own.json").exists()
    for name, own in (("fp32", True), ("int8", False)):
        with closing(Engine.open(bundle, profile=name, threads=1)) as engine:
            assert engine._step.graphs.own_attention == own


def test_one_that_is_added_without_the_package_takes_the_proof_away(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start is then held to the plain graph's golden vectors, as of a bundle that was exported without it."""
    adapter = peft_folder(place / "model", tmp_path / "other", r=2, spread=0.2)
    with monkeypatch.context() as patch:
        patch.setattr(forms, "kernels_for", lambda path, *, exact: None)
        found = rows(publish.add(place / "bundle", adapter, "other", threads=1).hops)
    assert not any(hop.form for hop in found.values())
    bundle = Bundle.open(place / "bundle")
    assert not list(bundle.golden_path.parent.glob("*.own.json"))
    with closing(Engine.open(bundle, profile="int8", threads=1)) as engine:
        assert engine._step.graphs.own_attention
    with closing(Engine.open(bundle, profile="int4", threads=1)) as engine:
        assert not engine._step.graphs.own_attention


def test_verify_holds_a_machine_to_what_it_would_serve(
    exported: tuple[Path, Proof], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was refused is not measured again; what comes next decides nothing where it is not served."""
    monkeypatch.setattr(gate, "of_engine", spoiled(["int8", "int4"]))
    proof = publish.verify(exported[0] / "bundle", threads=1)
    assert [hop.name for hop in proof.drifted] == [f"fp32 → int8, {OWN}"] * 2
    assert f"fp32 → int8, {ADAPTERS}" in rows(proof.adapters["tuned"])
