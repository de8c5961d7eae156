"""`ptune export --kv-cache-dtype int8`: proved beside every profile, served by choice, left out where it drifts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from support.bundles import peft_folder
from support.chat_run import trained
from support.tiny_models import build

from ptune import publish
from ptune.cli import main
from ptune.engine.decoder.engine import Engine
from ptune.engine.kernels import PACKAGE
from ptune.errors import FormatError, UsageError
from ptune.formats.bundle import INT8_CACHE, Bundle, CacheType
from ptune.formats.whole_write import read_json
from ptune.kinds import ENCODER, imported
from ptune.publish.caches import check_cache
from ptune.verify.decoder import cache, profile

KINDS: tuple[CacheType, ...] = ("float32", "int8")
RANDOM_TOP1 = 0.8  # the best two tokens of random weights are often close to each other


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("caches")
    build(folder / "model", "llama")
    run = trained(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(profile, "PROFILE_TOP1", RANDOM_TOP1)
        patch.setattr(cache, "CACHE_TOP1", RANDOM_TOP1)
        profiles = ("fp32", "int8")
        proof = publish.export_run(
            run, folder / "bundle", name="tuned", threads=1, profiles=profiles, cache="int8"
        )
        assert proof.passed
        assert not proof.refused
        yield folder


def test_hops_of_every_profile_and_adapter(place: Path) -> None:
    bundle = Bundle.open(place / "bundle")
    base = {hop.name: hop for hop in bundle.manifest.hops}
    for name in ("fp32", "int8"):
        assert bundle.manifest.graphs[name].kv_caches == ("int8",)
        for hop in (
            base[f"{name}: float32 cache → int8 cache"],
            base[f"{name}: passages from far back, float32 cache → int8 cache"],
        ):
            assert 0 < (hop.mean_kl or 0) < 0.005
            assert hop.limit == f"mean KL ≤ 0.005 and top-1 ≥ {RANDOM_TOP1}"
        company = base[f"{name}, int8 cache: alone → in company"]
        assert company.note.endswith("the base's moved by 0")
        assert f"{name}: float32 cache → int8 cache" in {hop.name for hop in bundle.adapter("tuned").hops}
        own = f"{name}: float32 cache → int8 cache, own attention"
        for hops in (bundle.manifest.hops, bundle.adapter("tuned").hops):
            assert all(hop.passed for hop in hops)
            assert (own in {hop.name for hop in hops}) == (find_spec(PACKAGE) is not None)


def test_it_is_served_by_choice(place: Path) -> None:
    """The golden vectors of each are replayed as it opens."""
    said = {}
    for kind in KINDS:
        with closing(Engine.open(place / "bundle", profile="int8", kv_cache_dtype=kind, threads=1)) as engine:
            said[kind] = engine.logits([[5, 6, 7, 8]], ["tuned"])[0]
    assert 0 < np.abs(said["float32"] - said["int8"]).max() < 0.5
    golden = Bundle.open(place / "bundle").golden_path
    assert read_json(golden.with_name("fp32.int8_cache.json"))["tolerance"] == 0.05
    if find_spec(PACKAGE) is not None:
        assert read_json(golden.with_name("fp32.int8_cache.own.json"))["tolerance"] == 0.05


def test_verified_again_and_another_adapter_added(place: Path, tmp_path: Path) -> None:
    adapter = peft_folder(place / "model", tmp_path / "other", r=2, spread=0.2)
    record = publish.add(place / "bundle", adapter, "other", threads=1)
    assert {f"{name}: float32 cache → int8 cache" for name in ("fp32", "int8")} < {
        hop.name for hop in record.hops
    }
    with closing(Engine.open(place / "bundle", kv_cache_dtype="int8", threads=1)) as engine:
        assert sorted(engine.adapters) == ["other", "tuned"]
    proof = publish.verify(place / "bundle", threads=1)
    assert proof.passed
    assert "int8: passages from far back, float32 cache → int8 cache" in {hop.name for hop in proof.base}


def test_where_it_drifts_it_is_left_out_and_the_rest_is_kept(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cache, "CACHE_KL", 1e-12)
    out = tmp_path / "bundle"
    arguments = ["export", str(place / "model"), "--out", str(out), "--threads", "1"]
    assert main([*arguments, "--kv-cache-dtype", "int8"]) == 1
    said = capsys.readouterr().err
    assert "fp32 is left without an int8 cache: fp32: float32 cache → int8 cache: " in said
    assert f"error: {out} is without int8 cache of fp32: " in said
    bundle = Bundle.open(out)
    assert bundle.manifest.graphs["fp32"].kv_caches == ()
    assert not list(out.rglob("*int8_cache*"))
    Engine.open(out, threads=1).close()
    with pytest.raises(FormatError, match="--kv-cache-dtype int8"):
        Engine.open(out, threads=1, kv_cache_dtype="int8")


def test_a_damaged_graph_is_found_out(place: Path) -> None:
    path = Bundle.open(place / "bundle").graph_path().with_name(INT8_CACHE)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        with pytest.raises(FormatError, match="is damaged"):
            Engine.open(place / "bundle", kv_cache_dtype="int8", threads=1)
    finally:
        path.write_bytes(content)


def test_other_kinds_have_none() -> None:
    with pytest.raises(UsageError, match=r"a run is of .*, which has no cache of another type"):
        check_cache("int8", imported(ENCODER.publishable), "a run", ENCODER.noun)
