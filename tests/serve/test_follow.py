"""A run that goes on, and a server that serves each new best checkpoint of it."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from support.bundles import with_peft
from support.fake_chat_model import wait_until
from support.living_adapters import Living, Process, living, token_ids
from support.tiny_models import build, conversations, write_jsonl

from ptune import publish
from ptune.config.chat import Chat
from ptune.config.recipe import Backbone, Data, Recipe, Train
from ptune.errors import FormatError, UsageError
from ptune.fine_tune import train
from ptune.formats.bundle import Bundle
from ptune.formats.run import Run
from ptune.formats.whole_write import read_json, write_json
from ptune.methods.full import Full
from ptune.methods.lora import Lora
from ptune.publish.follow import best_step, check_followable, follow, unpack
from ptune.tasks.chat.infer import load
from ptune_serve import follow as following_module
from ptune_serve.adapters.store import AdapterStore
from ptune_serve.follow import Follow, following

PROMPT = [5, 17, 99, 23, 300, 41]


def recipe_in(folder: Path, ema: float | None = None) -> Recipe:
    """Of a run whose every checkpoint stays."""
    steps = Train(
        max_steps=3,
        lr=2e-2,
        batch_size=4,
        validate_every=1,
        save_every=1,
        keep_checkpoints=9,
        ema=ema,
    )
    return Recipe(
        task=Chat(system="Answer like Bierce."),
        method=Lora(r=4, target_modules=("q_proj", "down_proj"), rslora=True),
        backbone=Backbone.model_validate({"model": str(folder / "model"), "dtype": "float32"}),
        data=Data(files=(folder / "data.jsonl",), validation_share=0.45),
        train=steps,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model and its bundle, and a run whose every checkpoint is still there."""
    folder = tmp_path_factory.mktemp("follow")
    build(folder / "model", "llama")
    write_jsonl(folder / "data.jsonl", conversations(40))
    train(recipe_in(folder), folder / "run")
    publish.export_backbone(Backbone(model=str(folder / "model")), folder / "bundle", threads=1)
    return folder


def greedy(base: Path, adapter: Path, tokens: int = 5) -> list[int]:
    """What plain transformers and peft continue PROMPT with."""
    model: Any = with_peft(base, adapter)
    ids = torch.tensor([PROMPT])
    found = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens,
        do_sample=False, eos_token_id=None,
    )  # fmt: skip
    return found[0, len(PROMPT) :].tolist()


def unpacked(run: Path, step: int, folder: Path) -> Path:
    folder.mkdir()
    unpack(Run(run), step, folder)
    return folder


def test_a_checkpoint_unpacked_is_what_the_run_saves_at_its_end(place: Path, tmp_path: Path) -> None:
    run = Run.open(place / "run")
    step = best_step(run)
    assert step is not None
    assert step == run.record().best_step
    found = unpacked(run.folder, step, tmp_path / "found")
    ours, theirs = (load_file(path / "adapter_model.safetensors") for path in (found, run.adapter_path))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert read_json(found / "ptune.json") == read_json(run.adapter_path / "ptune.json")
    assert greedy(place / "model", found) == greedy(place / "model", run.adapter_path)
    peft_says: Any = with_peft(place / "model", found)
    assert isinstance(peft_says, PeftModel)
    assert peft_says.peft_config["default"].use_rslora


def test_of_a_run_that_averages_its_weights_the_average_is_served(place: Path, tmp_path: Path) -> None:
    run = train(recipe_in(place, ema=0.9), tmp_path / "averaged")
    step = best_step(run)
    assert step is not None
    found = unpacked(run.folder, step, tmp_path / "found")
    ours, theirs = (load_file(path / "adapter_model.safetensors") for path in (found, run.adapter_path))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    raw = load_file(run.checkpoints_path / f"step-{step}" / "weights.safetensors")
    assert any(not torch.equal(raw[name.replace(".weight", ".default.weight")], ours[name]) for name in ours)


def test_a_damaged_checkpoint_and_one_that_is_gone(place: Path, tmp_path: Path) -> None:
    copied = tmp_path / "run"
    shutil.copytree(place / "run", copied)
    weights = copied / "checkpoints" / "step-2" / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(FormatError, match=r"weights\.safetensors is damaged"):
        unpacked(copied, 2, tmp_path / "one")
    with pytest.raises(FormatError, match="is missing"):
        unpacked(copied, 77, tmp_path / "two")


def test_only_runs_of_adapters_are_followed(place: Path, tmp_path: Path) -> None:
    run = Run.open(place / "run")
    check_followable(run)
    other = tmp_path / "run"
    shutil.copytree(run.folder, other)
    recipe = Recipe.load(run.recipe_path).model_copy(update={"method": Full()})
    recipe.save(other / "recipe.yaml")
    with pytest.raises(UsageError, match="cannot be followed"):
        check_followable(Run.open(other))


class Growing:
    """A run folder that gets the checkpoints of another one by one, as a training writes them."""

    def __init__(self, whole: Path, folder: Path) -> None:
        self.whole, self.folder = whole, folder
        shutil.copytree(whole, folder, ignore=shutil.ignore_patterns("adapter", "checkpoints"))
        self.status("running")

    def status(self, status: str) -> None:
        run = Run(self.folder)
        run.write_record(run.record().model_copy(update={"status": status}))

    def reach(self, step: int, spoil: Callable[[Path], None] = lambda _: None) -> None:
        """The checkpoint of a step that was the best so far."""
        place = self.folder / "checkpoints" / f"step-{step}"
        shutil.copytree(self.whole / "checkpoints" / f"step-{step}", place)
        spoil(place)
        state = read_json(place / "state.json")
        write_json(place / "state.json", {**state, "best_step": step})
        write_json(self.folder / "checkpoints" / "latest.json", {"step": step})


def cut(place: Path) -> None:
    weights = place / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])


def test_a_refusal_has_an_acknowledgement_of_its_own(place: Path, tmp_path: Path) -> None:
    """Left unread, it would stand for that of the next folder, which was removed before the server had copied it."""
    growing = Growing(place / "run", tmp_path / "mine")
    growing.reach(1, cut)
    growing.status("finished")
    told, acknowledged = io.StringIO(), io.StringIO("of the refusal\nof the next\n")
    follow(Run.open(growing.folder), place / "bundle", "mine", 1, told, acknowledged)
    assert [json.loads(line).keys() >= {"refused"} for line in told.getvalue().splitlines()] == [True]
    assert acknowledged.read() == "of the next\n"


def test_a_server_follows_a_run(place: Path, tmp_path: Path) -> None:
    """Three checkpoints, one of them damaged; a rollback; the end."""
    base = place / "model"
    bundle = tmp_path / "bundle"
    shutil.copytree(place / "bundle", bundle)
    right = {
        step: greedy(base, unpacked(place / "run", step, tmp_path / f"step-{step}")) for step in (1, 2, 3)
    }
    growing = Growing(place / "run", tmp_path / "mine")
    server = Process(bundle, tmp_path / "ready", "--follow", str(growing.folder), "--require-parity")

    def alias() -> Any:
        return {one["alias"]: one for one in server.http.get("/v1/aliases").json()["data"]}.get("mine", {})

    def answers() -> list[int]:
        body = {
            "model": "mine",
            "prompt": PROMPT,
            "temperature": 0,
            "max_tokens": 5,
            "return_token_ids": True,
        }
        bias = {str(token): -100 for token in load_eos(bundle)}
        return token_ids(server.http.post("/v1/completions", json={**body, "logit_bias": bias}))

    try:
        assert server.http.post("/v1/completions", json={"model": "mine", "prompt": [5]}).status_code == 404
        growing.reach(1)
        wait_until(lambda: alias().get("name") == "mine-step-1", 400)
        assert answers() == right[1]
        [card] = server.http.get("/v1/adapters").json()["data"]
        assert (card["name"], card["parity"], card["base"]) == ("mine-step-1", "measured", "verified")
        growing.reach(2, cut)
        wait_until(lambda: "mine-step-2 is not served" in server.said.read_text(), 400)
        assert answers() == right[1]
        growing.reach(3)
        wait_until(lambda: alias().get("name") == "mine-step-3", 400)
        assert answers() == right[3]
        assert alias()["previous"] == "mine-step-1"
        assert server.http.post("/v1/aliases/mine/rollback").status_code == 200
        assert answers() == right[1]
        growing.status("finished")
        server.process.terminate()
        assert server.process.wait(120) == 0
    finally:
        server.kill()
    said = server.said.read_text()
    assert "mine is mine-step-3 now, proved" in said
    assert "Traceback" not in said
    assert [path.name for path in tmp_path.glob(".bundle.*")] == [], "nothing of the proofs is left"
    manifest = Bundle.open(bundle).manifest
    assert manifest.adapters.keys() == {"mine-step-1", "mine-step-3"}
    model = load(bundle, threads=1)  # golden vectors and all files are right
    model.close()


def load_eos(bundle: Path) -> set[int]:
    return set(read_json(Bundle.open(bundle).codec_path / "codec.json")["eos_ids"])


# What the server's side does with what it is told


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Living:
    return living(tmp_path_factory.mktemp("told"))


def prover(lines: list[dict[str, Any]], path: Path, code: int = 0) -> list[str]:
    """A process that tells what a prover would, and waits for each answer."""
    script = f"import sys\nfor line in {[json.dumps(line) for line in lines]!r}:\n"
    script += f"    print(line, flush=True)\n    sys.stdin.readline()\nsys.exit({code})\n"
    path.write_text(script, encoding="utf-8")
    return [sys.executable, str(path)]


def test_versions_come_and_go_and_two_are_kept(there: Living, tmp_path: Path, caplog: Any) -> None:
    folders = {}
    for step in (1, 2, 3):
        folders[step] = there.folder / "adapters" / "wide"
    lines: list[dict[str, Any]] = [
        {"step": step, "name": f"told-step-{step}", "folder": str(renamed(folders[step], tmp_path, step))}
        for step in (1, 2, 3)
    ]
    lines.insert(1, {"step": 9, "name": "told-step-9", "refused": "it drifts"})
    lines.append({"step": 4, "name": "told-step-4", "folder": str(tmp_path / "nowhere")})
    lines.append({"failed": "no such base"})
    model = load(there.folder, threads=1, max_rows=2)
    store = AdapterStore(model.engine, 10, model.codec_for)
    try:
        command = prover(lines, tmp_path / "prover.py", code=3)
        with following(Follow(tmp_path, "told"), store, there.folder, command):
            wait_until(lambda: "exit code 3" in caplog.text)
        assert store.aliases()["told"].name == "told-step-3"
        assert store.aliases()["told"].previous == "told-step-2"
        assert {*store.names()} == {"wide", "narrow", "told-step-2", "told-step-3"}
        assert "told-step-9 is not served: it drifts" in caplog.text
        assert sum("following" in record.message for record in caplog.records) == 2, "step 4, and the end"
        assert "cannot be followed: no such base" in caplog.text
        store.roll_back("told")
        with following(
            Follow(tmp_path, "told"), store, there.folder, prover(lines[3:4], tmp_path / "again.py")
        ):
            wait_until(lambda: store.aliases()["told"].name == "told-step-2")
        assert store.aliases()["told"].name == "told-step-2", "started again, it leaves a rollback alone"
    finally:
        model.close()


def renamed(adapter: Path, folder: Path, step: int) -> Path:
    """A proved adapter's folder as a prover leaves it, under a version's name."""
    version = folder / f"told-step-{step}"
    shutil.copytree(adapter, version)
    record = read_json(version / "adapter.json")
    write_json(version / "adapter.json", {**record, "name": version.name, "parity": "measured"})
    return version


def test_a_machine_without_torch_says_so(there: Living, monkeypatch: Any) -> None:
    monkeypatch.setattr(following_module, "find_spec", lambda name: None if name == "torch" else object())
    with pytest.raises(UsageError, match=r"torch is not installed here: pip install 'ptune\[export\]'"):
        Follow(Path("runs/mine"), "mine").check(Bundle.open(there.folder))


def test_what_cannot_be_followed_ends_the_start(place: Path, there: Living, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no run at"):
        Follow(tmp_path / "nowhere", "mine").check(Bundle.open(there.folder))
    with pytest.raises(UsageError, match="it trains on another base"):
        Follow(place / "run", "mine").check(Bundle.open(there.folder))
    done = subprocess.run(
        [sys.executable, "-m", "ptune", "serve", str(there.folder), "--port", "0", "--no-ui", "--follow", str(place / "run")],
        capture_output=True, text=True, timeout=90,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: --follow ")
    assert done.stderr.count("\n") == 1
