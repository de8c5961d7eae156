"""Combined adapters: peft's own numbers, also where peft itself goes wrong; the same bytes; refusals; what each part keeps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from peft import PeftModel
from support import chat_run
from support.bundles import peft_folder, with_peft
from support.tiny_models import build
from transformers import AutoModelForCausalLM

import ptune
from ptune import publish
from ptune.cli import main
from ptune.errors import AdapterError, UsageError
from ptune.formats.bundle import Bundle
from ptune.publish.combine import Combination, How, combine

IDS = torch.arange(5, 29)[None]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("base") / "model", "llama")


@pytest.fixture(scope="module")
def parts(base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two adapters with different scales and layers."""
    folder = tmp_path_factory.mktemp("parts")
    layers = ["q_proj", "v_proj", "down_proj"]
    return [
        peft_folder(base, folder / "a", seed=1, spread=0.3),
        peft_folder(base, folder / "b", seed=2, spread=0.3, target_modules=layers, lora_alpha=3),
    ]


def updates(model: Any, adapter: str) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return {
            name: layer.get_delta_weight(adapter)
            for name, layer in model.named_modules()
            if adapter in getattr(layer, "lora_A", {})
        }


def off(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    apart = sum(float((one[name] - other[name]).square().sum()) for name in one)
    return (apart / sum(float(update.square().sum()) for update in other.values())) ** 0.5


@pytest.mark.parametrize("how", sorted(how for how in get_args(How) if not how.startswith("dare")))
def test_numbers_are_those_of_pefts_own_combination(
    how: Any, base: Path, parts: list[Path], tmp_path: Path
) -> None:
    density = None if how in ("cat", "linear", "svd") else 0.4
    weights = (0.7, -0.5)
    theirs: Any = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), str(parts[0]), adapter_name="a"
    )
    theirs.load_adapter(str(parts[1]), adapter_name="b")
    theirs.base_model.peft_config["b"].target_modules |= set()
    theirs.add_weighted_adapter(["a", "b"], [*weights], "c", how, density=density)
    found = combine(parts, tmp_path / "c", Combination(how, weights, density))
    ours = with_peft(base, tmp_path / "c")
    assert off(updates(ours, "default"), updates(theirs, "c")) < 1e-4
    summed = updates(theirs, "a")
    for name, update in updates(theirs, "b").items():
        summed[name] = 0.7 * summed[name] - 0.5 * update
    for name in summed.keys() - updates(theirs, "b").keys():
        summed[name] = 0.7 * summed[name]
    size = sum(float(update.square().sum()) for update in updates(ours, "default").values()) ** 0.5
    wanted = sum(float(update.square().sum()) for update in summed.values()) ** 0.5
    there = off(updates(ours, "default"), summed) * wanted / max(size, wanted)
    assert found.off == pytest.approx(there, rel=1e-3, abs=1e-6)
    assert (found.off < 1e-6) == (how == "cat")


@pytest.mark.parametrize(
    "options",
    [
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 5.0}},
        {"rank_pattern": {"layers.1.mlp.up_proj": 6}, "use_rslora": True},
    ],
    ids=["rslora", "patterns", "both"],
)
def test_what_peft_forgets_is_kept(options: dict[str, Any], base: Path, tmp_path: Path) -> None:
    """peft's own combination of such an adapter with itself has another scale, or cannot be read again."""
    part = peft_folder(base, tmp_path / "a", seed=3, spread=0.3, **options)
    twin = shutil.copytree(part, tmp_path / "twin")
    for how in ("cat", "linear"):
        combine([part, twin], tmp_path / how, Combination(how, (0.25, 0.75) if how == "cat" else ()))
        with torch.no_grad():
            here, there = (with_peft(base, folder)(IDS).logits for folder in (tmp_path / how, part))
            bare = with_peft(base, None)(IDS).logits
        assert (there - bare).abs().max() > 0.01
        if how == "cat":
            torch.testing.assert_close(here, there, atol=1e-4, rtol=1e-4)
        else:  # (sqrt(.5) + sqrt(.5)) A and B: twice the update
            doubled = off(
                updates(with_peft(base, tmp_path / how), "default"),
                {name: 2 * update for name, update in updates(with_peft(base, part), "default").items()},
            )
            assert doubled < 1e-5


@pytest.mark.parametrize("how", ["cat", "linear", "svd"])
def test_parts_may_be_of_other_layers_and_ranks(how: Any, base: Path, tmp_path: Path) -> None:
    parts = [
        peft_folder(base, tmp_path / "a", seed=1, target_modules=["q_proj"]),
        peft_folder(base, tmp_path / "b", seed=2, target_modules=["down_proj"], r=8),
    ]
    combine(parts, tmp_path / "out", Combination(how, (1.0, 2.0)))
    wanted = updates(with_peft(base, parts[0]), "default")
    wanted |= {name: 2 * update for name, update in updates(with_peft(base, parts[1]), "default").items()}
    assert off(updates(with_peft(base, tmp_path / "out"), "default"), wanted) < 1e-5


def test_the_same_command_gives_the_same_bytes(parts: list[Path], tmp_path: Path) -> None:
    def made(name: str, seed: int) -> bytes:
        way = Combination("dare_ties", (), 0.5, seed=seed)
        torch.rand(1)  # other numbers before it change nothing, and it takes none of them
        before = torch.get_rng_state()
        combine(parts, tmp_path / name, way)
        assert torch.equal(torch.get_rng_state(), before)
        return (tmp_path / name / "adapter_model.safetensors").read_bytes()

    assert made("one", 5) == made("again", 5) != made("other", 6)
    for file in ("adapter_config.json", "combined.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()


def test_runs_are_measured_and_the_result_is_added(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build(tmp_path / "model", "llama")
    one = chat_run.trained(tmp_path)
    publish.export_run(one, tmp_path / "bundle", name="one", threads=1, anyway=True)
    two = peft_folder(tmp_path / "model", tmp_path / "two", seed=4, spread=0.1)
    out = tmp_path / "both"
    assert main(["combine", str(one.folder), str(two), "--out", str(out), "--weights", "1", "0.5"]) == 0
    said = capsys.readouterr().out
    assert "loss a token on what each part's run held out" in said
    assert "combined: rank 8; 0.0% off the weighted sum of the updates" in said
    record = json.loads((out / "combined.json").read_text())
    (judged,) = record["held_out"]
    evaluated = ptune.evaluate(one.folder)
    assert judged["base"]["loss"] == pytest.approx(evaluated["before"]["loss"], abs=1e-6)
    assert judged["own"]["loss"] == pytest.approx(evaluated["after"]["loss"], abs=1e-6)
    assert judged["combined"]["loss"] != judged["own"]["loss"]
    assert record["notes"] == [
        "run and two are of the same base by its name; no hash says so",
        "two was trained with another prompt than run, whose it is now",
    ]
    card = (out / "README.md").read_text()
    assert all(part["sha256"] in card for part in record["parts"])
    added = publish.add(tmp_path / "bundle", out, "both", threads=1)
    assert added.parity == "measured"
    assert Bundle.open(tmp_path / "bundle").adapter("both").rank == 8
    assert ptune.combine([one, two], tmp_path / "again", evaluate=False).rank == 8


def changed(adapter: Path, **fields: Any) -> None:
    """Gives an adapter_config.json other fields."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | fields))


def test_factors_that_peft_would_ignore_are_refused(parts: list[Path], tmp_path: Path) -> None:
    fewer = shutil.copytree(parts[1], tmp_path / "fewer")
    changed(fewer, target_modules=["q_proj", "v_proj"])
    with pytest.raises(AdapterError, match=r"does not target these.*layers\.0\.mlp\.down_proj"):
        combine([parts[0], fewer], tmp_path / "out", Combination())


def test_another_base_is_refused(parts: list[Path], tmp_path: Path) -> None:
    other = shutil.copytree(parts[1], tmp_path / "other")
    changed(other, base_model_name_or_path="elsewhere")
    with pytest.raises(AdapterError, match=r"a and other are of different bases, .*model and elsewhere"):
        combine([parts[0], other], tmp_path / "out", Combination())
    of_commits = []
    for part, commit in zip(parts, ("0a1b", "2c3d"), strict=True):
        of_commits.append(shutil.copytree(part, tmp_path / f"at_{commit}"))
        changed(of_commits[-1], revision=commit)
    with pytest.raises(AdapterError, match=r"are of different revisions of .*model, 0a1b and 2c3d"):
        combine(of_commits, tmp_path / "out", Combination())
    for folder, digest in ((parts[0], "a" * 64), (other, "b" * 64)):
        copied = shutil.copytree(folder, tmp_path / digest[:1], dirs_exist_ok=True)
        (copied / "ptune.json").write_text(json.dumps({"base": digest, "quantize": "nf4", "task": "chat"}))
    with pytest.raises(AdapterError, match=r"weights that hash to aaaaaaaaaaaa \(nf4\) and bbbbbbbbbbbb"):
        combine([tmp_path / "a", tmp_path / "b"], tmp_path / "out", Combination())
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_combined_is_refused(base: Path, parts: list[Path], tmp_path: Path) -> None:
    wide = peft_folder(base, tmp_path / "wide", r=8)
    dora = peft_folder(base, tmp_path / "dora", use_dora=True)
    out = tmp_path / "out"
    for sources, way, said in [
        (parts[:1], Combination(), "two adapters or more"),
        (parts, Combination(weights=(1.0,)), "there are 1 for 2 adapters"),
        (parts, Combination(weights=(1.0, float("nan"))), "a weight is a finite number"),
        (parts, Combination("ties"), "say with --density which share"),
        (parts, Combination("ties", density=0.0), "say with --density which share"),
        (parts, Combination("cat", density=0.5), "--how cat prunes nothing"),
        (parts, Combination("cat", rank=4), "--rank 4: a rank of 1 or more, for the ways that end in svd"),
        (parts, Combination("mean"), "--how 'mean': there is cat, linear, svd"),  # type: ignore[arg-type]
        ([parts[0], wide], Combination("linear"), r"ranks 4 and 8 in .*: use cat"),
    ]:
        with pytest.raises(UsageError, match=said):
            combine(sources, out, way)
    with pytest.raises(AdapterError, match=r"dora cannot be combined:\n  - use_dora is set"):
        combine([parts[0], dora], out, Combination())
    with pytest.raises(UsageError, match="exists already"):
        combine(parts, tmp_path, Combination())
