"""A run: what it writes, that it repeats and resumes to the byte, and what it refuses."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from peft import PeftModel
from safetensors.torch import load_file
from support import tiny_models
from transformers import AutoModelForCausalLM, AutoTokenizer

from ptune.codecs.chat import ChatCodec
from ptune.config.recipe import Recipe
from ptune.errors import FormatError, PtuneError, RecipeError
from ptune.evaluation.evaluate import evaluate
from ptune.fine_tune import train
from ptune.formats.run import Run
from ptune.methods.freeze import FreezeExceptLast
from ptune.methods.full import Full
from ptune.methods.lora import Lora
from ptune.training import loop
from ptune.training.journal.metrics_log import read
from ptune.training.record import resume_command

from .conftest import Make, fingerprint, refused


def test_writes_a_run_that_explains_itself(make: Make, tmp_path: Path) -> None:
    run = train(make(), tmp_path / "run", command="ptune train x.py")
    record = run.record()
    assert (record.status, record.steps, record.command) == ("finished", 6, "ptune train x.py")
    assert record.planned_steps == 6
    assert record.versions["torch"] == torch.__version__
    assert record.instruction_set.split(",")[0] == torch.backends.cpu.get_cpu_capability()
    assert record.threads == torch.get_num_threads()
    assert (record.attention, record.unrepeatable) == ("sdpa, packed examples one by one", ())
    assert record.base.licence == "apache-2.0"
    assert "license: apache-2.0" in run.card_path.read_text()
    assert Recipe.load(run.recipe_path) == make(backbone={"dtype": "float32"})
    assert ChatCodec.open(run.codec_path).template is not None
    (hop,) = record.hops
    assert (hop.max_abs_logprob, hop.passed, hop.prompts) == (0.0, True, 8)
    steps = [entry for entry in read(run.metrics_path) if "loss" in entry]
    assert [entry["step"] for entry in steps] == [1, 2, 3, 4, 5, 6]
    assert all(entry["targets"] > 0 and entry["tokens_per_s"] > 0 for entry in steps)
    assert not [
        path for path in run.folder.rglob("*") if path.name.endswith((".part", ".bin", ".pt", ".pkl"))
    ]


def test_it_learns(make: Make, tmp_path: Path) -> None:
    run = train(make(epochs=8, lr=2e-2), tmp_path / "run")
    losses = [entry["validation_loss"] for entry in read(run.metrics_path) if "validation_loss" in entry]
    assert min(losses) < losses[0] - 0.5


def test_plain_peft_reads_the_adapter(make: Make, kit: Path, tmp_path: Path) -> None:
    run = train(make(lr=2e-2), tmp_path / "run")
    base = AutoModelForCausalLM.from_pretrained(kit / "model", dtype=torch.float32)
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        untrained = base(ids).logits
        logits = PeftModel.from_pretrained(base, run.adapter_path)(ids).logits
    assert not torch.allclose(logits, untrained, atol=1e-3)
    saved = load_file(run.adapter_path / "adapter_model.safetensors")
    kept = load_file(run.checkpoints_path / f"step-{run.record().best_step}" / "weights.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    assert {name.replace(".default", ""): tensor.tolist() for name, tensor in kept.items()} == {
        name: tensor.tolist() for name, tensor in saved.items()
    }
    config = json.loads((run.adapter_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(kit / "model")


def test_recipe_yaml_reruns_to_the_same_bytes(make: Make, tmp_path: Path) -> None:
    first = train(make(method=Lora(r=4, dropout=0.2)), tmp_path / "first")
    second = train(Recipe.load(first.recipe_path), tmp_path / "second")
    assert fingerprint(first.adapter_path) == fingerprint(second.adapter_path)
    other = train(make(method=Lora(r=4, dropout=0.2), seed=1), tmp_path / "other")
    assert fingerprint(first.adapter_path) != fingerprint(other.adapter_path)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_quantised_bases_train_and_go_on_after_a_validation(make: Make, tmp_path: Path, kind: str) -> None:
    run = train(make(backbone={"quantize": kind}, epochs=4, lr=2e-2), tmp_path / "run")
    losses = [entry["validation_loss"] for entry in read(run.metrics_path) if "validation_loss" in entry]
    assert min(losses) < losses[0] - 0.1
    record = run.record()
    assert record.base.quantize == kind
    assert record.hops[0].passed
    assert record.base.parameters == 150_848  # those of the model, packed or not


@pytest.mark.parametrize("method", [FreezeExceptLast(layers=1), Full()])
def test_methods_that_train_the_base_itself_save_a_plain_model(
    make: Make, kit: Path, tmp_path: Path, method: Full
) -> None:
    run = train(make(method=method, lr=1e-3), tmp_path / "run")
    assert not run.has_adapter
    assert run.record().hops[0].max_abs_logprob == 0.0
    before = AutoModelForCausalLM.from_pretrained(kit / "model").state_dict()
    after = AutoModelForCausalLM.from_pretrained(run.model_path).state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    if isinstance(method, Full):
        assert changed == before.keys()
    else:
        assert changed == {name for name in before if name.startswith(("model.layers.1.", "model.norm."))}
    messages = tiny_models.conversations(1)[0]
    expected = AutoTokenizer.from_pretrained(kit / "model").apply_chat_template(messages)["input_ids"]
    assert (
        AutoTokenizer.from_pretrained(run.model_path).apply_chat_template(messages)["input_ids"] == expected
    )


def test_stops_early_and_keeps_the_best(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([3.0, 2.0, 2.5, 2.5, 1.0])
    monkeypatch.setattr(loop, "held_out", lambda job, examples: (next(losses), 0.0))
    run = train(make(epochs=9, validate_every=1, patience=2, save_every=99), tmp_path / "run")
    record = run.record()
    assert (record.status, record.steps, record.best_step) == ("stopped early", 4, 2)
    assert record.planned_steps > 4
    assert record.how_it_ended() == (
        f"Stopped early after step 4 of {record.planned_steps}: 2 validations in a row were no better than step 2"
        " (train.patience 2). Step 2 was kept: its validation loss was the lowest, 2."
    )
    best = load_file(run.checkpoints_path / "step-2" / "weights.safetensors")
    saved = load_file(run.adapter_path / "adapter_model.safetensors")
    assert all(torch.equal(saved[name.replace(".default", "")], tensor) for name, tensor in best.items())


def test_dropout_is_the_backbones_own(make: Make, tmp_path: Path) -> None:
    runs = [train(make(dropout=value, max_steps=2), tmp_path / str(value)) for value in (None, 0.0, 0.5)]
    plain, none, half = (fingerprint(run.adapter_path)["adapter_model.safetensors"] for run in runs)
    assert plain == none != half


def test_checkpointing_gives_the_same_bytes(make: Make, tmp_path: Path) -> None:
    runs = [train(make(gradient_checkpointing=value), tmp_path / str(value)) for value in (False, True)]
    assert fingerprint(runs[0].adapter_path) == fingerprint(runs[1].adapter_path)


def test_tensorboard_gets_the_metrics(make: Make, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run = train(make(tracker="tensorboard", max_steps=2), tmp_path / "run")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (folder,) = {path.parent for path in run.folder.rglob("events.out.*")}
    events = EventAccumulator(str(folder))
    events.Reload()
    logged = [event.value for event in events.Scalars("loss")]
    assert logged == pytest.approx([entry["loss"] for entry in read(run.metrics_path) if "loss" in entry])


def test_trackio_gets_the_metrics(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    run = train(make(tracker="trackio", max_steps=2), tmp_path / "run")
    assert capsys.readouterr().out == ""  # it speaks, but stdout is for results
    from trackio.sqlite_storage import SQLiteStorage

    (name,) = SQLiteStorage.get_runs("tiny")
    logged = [entry["loss"] for entry in SQLiteStorage.get_logs("tiny", name) if "loss" in entry]
    assert logged == pytest.approx([entry["loss"] for entry in read(run.metrics_path) if "loss" in entry])


def test_a_template_of_its_own_goes_with_the_adapter(make: Make, tmp_path: Path) -> None:
    template = tmp_path / "mine.jinja"
    template.write_text(
        "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}</s>\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    recipe = make(max_steps=1)
    recipe = recipe.model_copy(
        update={"task": recipe.task.model_copy(update={"template": template, "system": "Be brief."})}
    )
    run = train(recipe, tmp_path / "run")
    assert (run.adapter_path / "chat_template.jinja").read_text() == template.read_text()
    codec = ChatCodec.open(run.codec_path)
    prompt = codec.tokenizer.decode(
        codec.encode_prompt([{"role": "user", "content": "Hi"}]), skip_special_tokens=False
    )
    assert prompt == "[system] Be brief.</s>\n[user] Hi</s>\n[assistant] "


def test_a_folder_with_something_in_it_is_refused(make: Make, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    assert "--resume" in refused(FormatError, make(), tmp_path)
    assert "no run.json" in refused(FormatError, make(), tmp_path, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_bad_input_is_one_clear_error(make: Make, tmp_path: Path) -> None:
    recipe = make()
    missing = recipe.model_copy(
        update={"task": recipe.task.model_copy(update={"template": tmp_path / "none.jinja"})}
    )
    assert "none.jinja" in refused(RecipeError, missing, tmp_path / "a")
    assert "method.layers is 9" in refused(
        RecipeError, make(method=FreezeExceptLast(layers=9)), tmp_path / "b"
    )
    assert "bfloat16" in refused(
        RecipeError, make(method=Full(), backbone={"dtype": "bfloat16"}), tmp_path / "c"
    )
    strange = make(method=Lora(target_modules=("q_proj", "k_porj")))
    assert "no layer named 'k_porj'; did you mean 'k_proj'?" in refused(RecipeError, strange, tmp_path / "d")


@pytest.fixture
def forget_accelerate() -> Iterator[Callable[[], None]]:
    """accelerate reads its environment once a process."""

    def forget() -> None:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()

    forget()
    yield forget
    forget()


def test_the_environment_of_accelerate_launch_changes_nothing(
    make: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    forget_accelerate: Callable[[], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    launched = train(make(), tmp_path / "launched")
    assert capsys.readouterr().err.count("bf16 is ignored: the recipe's backbone.dtype decides") == 1
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION")
    monkeypatch.delenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS")
    forget_accelerate()
    plain = train(make(), tmp_path / "plain")
    assert "is ignored" not in capsys.readouterr().err
    assert fingerprint(launched.adapter_path) == fingerprint(plain.adapter_path)
    assert read(launched.metrics_path)[0]["grad_norm"] == read(plain.metrics_path)[0]["grad_norm"]


def test_the_adapter_says_what_it_was_trained_with(make: Make, kit: Path, tmp_path: Path) -> None:
    recipe = make(backbone={"quantize": "int8"}, max_steps=1)
    task = recipe.task.model_copy(update={"system": "Be brief."})
    run = train(recipe.model_copy(update={"task": task}), tmp_path / "run")
    assert json.loads((run.adapter_path / "ptune.json").read_text()) == {
        "format": 1,
        "task": "chat",
        "base": run.record().base.hash,
        "quantize": "int8",
        "template": AutoTokenizer.from_pretrained(kit / "model").chat_template,
        "system": "Be brief.",
    }
    assert not (run.adapter_path / "chat_template.jinja").exists()
    base = AutoModelForCausalLM.from_pretrained(kit / "model", dtype=torch.float32)
    PeftModel.from_pretrained(base, run.adapter_path)
    plain = train(make(max_steps=1), tmp_path / "plain")
    assert json.loads((plain.adapter_path / "ptune.json").read_text())["system"] is None


@pytest.mark.parametrize(
    "raised",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        MemoryError(),
        None,  # what PyTorch itself raises on the CPU
    ],
)
def test_out_of_memory_names_the_fields_that_help(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception | None
) -> None:
    def step(*_: object) -> float:
        if raised is not None:
            raise raised
        torch.empty(1 << 50)
        raise AssertionError("a petabyte was there")

    monkeypatch.setattr(loop, "optimizer_step", step)
    said = refused(PtuneError, make(), tmp_path / "run")
    assert said.startswith("out of memory")
    for way in (
        "--train.micro-batch-tokens 64",
        "--task.max-length 512 --task.on-overlong truncate",
        "--train.gradient-checkpointing",
        "--backbone.quantize nf4",
    ):
        assert way in said
    done = refused(PtuneError, make(method=Full(), gradient_checkpointing=True), tmp_path / "full")
    assert "gradient-checkpointing" not in done
    assert "quantize" not in done  # what is trained itself cannot be quantised


def test_other_errors_of_the_loop_stay_what_they_are(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(*_: object) -> float:
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(loop, "optimizer_step", step)
    with pytest.raises(RuntimeError, match="multiplied"):
        train(make(), tmp_path / "run")


def test_how_to_go_on_can_be_pasted() -> None:
    run = Run("my runs/a")
    assert shlex.split(resume_command("", run)) == [
        *("ptune", "train", "my runs/a/recipe.yaml", "--out", "my runs/a", "--resume"),
    ]
    typed = "ptune train 'my recipe.py' --train.lr 1e-3"
    assert resume_command(typed, run) == f"{typed} --resume"
    for as_it_is in (f"{typed} --resume", "ptune quickstart --out 'my runs'"):
        assert resume_command(as_it_is, run) == as_it_is


def _with_own_code(folder: Path) -> Path:
    """The tiny Llama under a name that only the code beside it knows."""
    tiny_models.build(folder, "llama")
    config = json.loads((folder / "config.json").read_text())
    own = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"}
    config |= {"model_type": "own", "architectures": ["OwnForCausalLM"], "auto_map": own}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n\n"
        "class OwnForCausalLM(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    return folder


def test_a_model_with_code_of_its_own_is_read_back(
    make: Make, kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _with_own_code(tmp_path / "model")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    recipe = make(method=Full(), backbone={"model": str(folder), "trust_remote_code": True}, max_steps=1)
    run = train(recipe, tmp_path / "run")
    assert run.record().hops[0].passed
    assert evaluate(run)["after"]["targets"] > 0
