"""A recipe as a script of TRL's: what stands in it, that its rows are ptune's targets, and that it trains."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.tiny_models import build, conversations
from support.trl import folder_of_trl

from ptune.cli import main
from ptune.config.chat import Chat
from ptune.config.columns import ChatColumns
from ptune.config.preference import Preference
from ptune.config.recipe import Backbone, Data, Recipe, Train
from ptune.config.unpaired_preference import UnpairedPreference
from ptune.data.shapes.conversations import Conversation, recognise
from ptune.data.shapes.preferences import PREFERENCES
from ptune.errors import RecipeError
from ptune.foreign.script_rows import examples_of, pairs_of
from ptune.foreign.trl_script import trl_script
from ptune.methods.bitfit import BitFit
from ptune.methods.full import Full
from ptune.methods.lora import Lora
from ptune.methods.oft import Oft

ASKED, GOOD, BAD = (
    {"role": "user", "content": "a?"},
    {"role": "assistant", "content": "b"},
    {"role": "assistant", "content": "c"},
)
SYSTEM = {"role": "system", "content": "Be brief."}
ROWS: dict[str, dict[str, Any]] = {
    "messages": {"messages": [SYSTEM, ASKED, GOOD, {"role": "user", "content": "d?"}, BAD]},
    "one answer is not learnt": {"messages": [ASKED, {**GOOD, "train": False}, ASKED, {**BAD, "weight": 1}]},
    "ShareGPT": {
        "conversations": [{"from": "human", "value": "a?"}, {"from": "gpt", "value": "b"}],
        "system": "Be brief.",
    },
    "prompt and completion, messages": {"prompt": [ASKED], "completion": [GOOD]},
    "Alpaca": {"instruction": "a", "input": "b", "output": "c", "history": [["d", "e"]]},
}
PAIRS: dict[str, dict[str, Any]] = {
    "prompt, messages": {"prompt": [ASKED], "chosen": [GOOD], "rejected": [BAD]},
    "prompt is text": {"prompt": "a?", "chosen": [GOOD], "rejected": [BAD]},
    "whole conversations": {"chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]},
    "prompt beside whole conversations": {"prompt": "a?", "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]},
    "OpenAI": {"input": {"messages": [ASKED]}, "preferred_output": [GOOD], "non_preferred_output": [BAD]},
    "ShareGPT": {"conversations": [{"from": "human", "value": "a?"}], "chosen": {"from": "gpt", "value": "b"},
                 "rejected": {"from": "gpt", "value": "c"}},
    "Alpaca": {"instruction": "a?", "chosen": "b", "rejected": "c"},
}  # fmt: skip


def plain(messages: Any) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in messages]


@pytest.mark.parametrize("last_only", [False, True])
@pytest.mark.parametrize("row", ROWS.values(), ids=list(ROWS))
def test_examples_are_the_answers_that_ptune_learns(row: dict[str, Any], last_only: bool) -> None:
    found = examples_of(row, None, last_only)
    read = recognise(row).converted(row)
    assert isinstance(read, Conversation)
    learnt = [
        at
        for at, one in enumerate(read.messages)
        if one["role"] == "assistant" and one.get("train") is not False
    ]
    expected = [plain(read.messages[: at + 1]) for at in (learnt[-1:] if last_only else learnt)]
    assert [plain([*one["prompt"], *one["completion"]]) for one in found] == expected
    assert all(len(one["completion"]) == 1 for one in found)


@pytest.mark.parametrize(
    "answer", [{"from": "function_call", "value": '{"name": "f"}'}, {"role": "assistant", "tool_calls": [{}]}]
)
def test_tool_calls_are_not_left_out_in_silence(answer: dict[str, Any]) -> None:
    with pytest.raises(SystemExit, match="does not hand on tool calls"):
        examples_of({"conversations": [ASKED, answer]}, None, False)


@pytest.mark.parametrize("row", PAIRS.values(), ids=list(PAIRS))
def test_pairs_are_those_that_ptune_compares(row: dict[str, Any]) -> None:
    (found,) = pairs_of(row, None, False)
    read: Any = recognise(row, PREFERENCES).converted(row)
    for side in ("chosen", "rejected"):
        assert plain([*found["prompt"], *found[side]]) == plain(getattr(read, side).messages)
        assert len(found[side]) == 1


def test_texts_stay_texts_and_a_system_message_is_put_first() -> None:
    assert examples_of({"prompt": "a", "completion": "b"}, "s", False) == [{"prompt": "a", "completion": "b"}]
    assert examples_of({"text": "a"}, "s", False) == [{"text": "a"}]
    (found,) = examples_of({"messages": [ASKED, GOOD]}, "Be kind.", False)
    assert found["prompt"][0] == {"role": "system", "content": "Be kind."}


@pytest.mark.parametrize(("weight", "kept"), [(0, 0), (0.0, 0), (0.5, 1), (1, 1), (None, 1)])
def test_rows_of_weight_0_are_left_out(weight: float | None, kept: int) -> None:
    assert len(examples_of({"prompt": "a", "completion": "b", "weight": weight}, None, False)) == kept


def recipe(**changes: Any) -> Recipe:
    given: dict[str, Any] = {
        "backbone": Backbone(model="acme/tiny"),
        "data": Data(files=(Path("rows.jsonl"),)),
        **changes,
    }
    return Recipe(**given)


def test_what_stands_in_it() -> None:
    script = trl_script(
        recipe(
            task=Chat(max_length=99, columns=ChatColumns(prompt="q", completion="a")),
            method=Lora(r=3, alpha=9, dora=True, target_modules=("q_proj",)),
            backbone=Backbone(model="acme/tiny", quantize="nf4", revision="abc"),
            train=Train(batch_size=12, schedule="wsd", optimizer="lion", betas=(0.8, 0.9), ema=0.99, lr=1e-3),
        ),
        "mine.yaml",
    )
    ast.parse(script)
    for part in ("r=3,", "lora_alpha=9.0,", "use_dora=True", "target_modules=['q_proj']", "load_in_4bit=True", "revision='abc'",
                 "per_device_train_batch_size=4", "gradient_accumulation_steps=3", "'warmup_stable_decay'", "'lion_32bit'",
                 "adam_beta1=0.8", "max_length=99", "learning_rate=0.001", "{'q': 'prompt', 'a': 'completion'}"):  # fmt: skip
        assert part in script, part
    assert "#   train.ema: 0.99" in script
    assert "ptune" not in re.sub(r"#.*", "", script)


@pytest.mark.parametrize("validation", [(), (Path("held.jsonl"),)])
def test_a_limit_is_of_training_rows_alone(validation: tuple[Path, ...]) -> None:
    """As in ptune, which holds out a part of all rows and then takes the first of those that are left."""
    data = Data(files=(Path("rows.jsonl"),), validation=validation, limit=20)
    script = trl_script(recipe(data=data), "x")
    read = script[script.index("train = Dataset.from_list") : script.index("BF16 =")]

    class Rows(list[int]):
        @staticmethod
        def from_list(rows: list[int]) -> Rows:
            return Rows(rows)

        def train_test_split(self, test_size: float, seed: int) -> dict[str, Rows]:
            at = len(self) - round(test_size * len(self))
            return {"train": Rows(self[:at]), "test": Rows(self[at:])}

        def select(self, places: range) -> Rows:
            return Rows(self[at] for at in places)

    names: dict[str, Any] = {"Dataset": Rows, "read": lambda files: list(range(100))}
    exec(read, names)
    assert (len(names["train"]), len(names["valid"])) == (20, 100 if validation else 10)


def test_other_methods_of_peft_and_all_weights() -> None:
    assert "adapter = OFTConfig(\n    oft_block_size=16" in trl_script(
        recipe(method=Oft(oft_block_size=16)), "x"
    )
    script = trl_script(recipe(method=Full()), "x")
    assert "adapter = None" in script
    assert "from peft" not in script


@pytest.mark.parametrize(
    "changes",
    [
        {"task": UnpairedPreference()},
        {"task": Preference(loss="orpo")},
        {"method": BitFit()},
        {"method": Full(), "train": Train(optimizer="muon")},
    ],
)
def test_what_trl_has_not_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=r"TRL|PEFT|TrainingArguments"):
        trl_script(recipe(**changes), "x")


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["script", "dpo_lora", "--backbone.model", "acme/tiny", "--task.beta", "0.3"]
    assert main(arguments) == 0
    assert "next: python dpo_lora_trl.py" in capsys.readouterr().out
    script = Path("dpo_lora_trl.py").read_text(encoding="utf-8")
    assert "DPOTrainer(" in script
    assert "beta=0.3" in script
    assert "loss_weights=[1.0, 0.2]" in script  # the recipe's sft_weight
    assert main(arguments) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(["script", "sentiment_lora"]) == 2
    assert "TextClassification" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["SFT", "DPO"])
def test_it_trains(kind: str, tmp_path: Path) -> None:
    """With TRL alone: no ptune can be imported."""
    model = build(tmp_path / "model", "llama")
    talks = conversations(24)
    rows: list[dict[str, Any]] = [{"messages": talk} for talk in talks]
    if kind == "DPO":
        rows = [{"prompt": talk[:-1], "chosen": talk[-1:], "rejected": [BAD]} for talk in talks]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    made = recipe(
        name="tiny",
        task=Preference() if kind == "DPO" else Chat(),
        backbone=Backbone(model=str(model), dtype="float32"),
        data=Data(files=(tmp_path / "rows.jsonl",), validation_share=0.2),
        train=Train(epochs=6, lr=2e-2, batch_size=4, schedule="constant", warmup=0.0),
    )
    (tmp_path / "train.py").write_text(trl_script(made, "tiny"), encoding="utf-8")
    paths = [str(folder_of_trl(tmp_path))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, "train.py"], cwd=tmp_path, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    losses = [float(found) for found in re.findall(r"'loss': '?([\d.]+)", done.stdout + done.stderr)]
    assert len(losses) > 10
    assert losses[-1] < losses[0] * 0.8
    assert (tmp_path / "runs" / "tiny-trl" / "adapter_model.safetensors").is_file()
