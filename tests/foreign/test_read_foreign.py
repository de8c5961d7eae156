"""Any file ends in a recipe that loads again, or in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ptune.config.recipe import Recipe
from ptune.errors import PtuneError, UsageError
from ptune.foreign import axolotl_table, llama_factory_table, torchtune_table, trl_table
from ptune.foreign.read_foreign import TITLES, Imported, read_foreign
from ptune.foreign.reading import LARGEST_BYTES
from ptune.foreign.tools import MARKS, Tool

FIELDS = sorted(
    {
        name
        for table in (axolotl_table.TABLE, llama_factory_table.TABLE, trl_table.TABLE, torchtune_table.TABLE)
        for name in table
        if not name.endswith(".*")
    }
    | {name for marks in MARKS.values() for name in marks}
    | {
        "dataset",
        "dataset_val",
        "test_datasets",
        "eval_dataset",
        "eval_steps",
        "warmup_steps",
        "adam_beta1",
        "save_strategy",
    }
)
WORDS = st.sampled_from(
    ["", "lora", "qlora", "full", "dpo", "kto", "grpo", "simpo", "adamw", "cosine", "constant", "a/b", "x.jsonl", "${seed}", "1e-4",
     "nan", "none", "true", "torchtune.rlhf.loss.DPOLoss", "torchtune.models.x.lora_x", "[a]|b", "torch.optim.AdamW", "steps"]
)  # fmt: skip
SIMPLE = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | WORDS | st.dates()
KEYS = st.text(max_size=6) | st.sampled_from(
    ["path", "type", "_component_", "name", "split", "data_files", "r", "columns"]
)
VALUES = st.recursive(
    SIMPLE,
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(KEYS, inside, max_size=3),
    max_leaves=6,
)
CONFIGS = st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=6), VALUES, min_size=1, max_size=12)
MODELS = {
    "base_model": "a/b",
    "model_name_or_path": "a/b",
    "learning_rate": 1e-4,
    "optimizer": {"_component_": "torch.optim.AdamW"},
}


def read_or_refused(file: Path, tool: Tool | None) -> Imported | None:
    """What the file makes; None where it is refused in one sentence."""
    try:
        return read_foreign(file, tool)
    except PtuneError as error:
        said = str(error)
    assert said
    assert "\n" not in said
    return None


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(config=CONFIGS, tool=st.sampled_from([None, *get_args(Tool)]))
def test_any_mapping_is_a_recipe_or_one_sentence(
    config: dict[str, Any], tool: Tool | None, tmp_path: Path
) -> None:
    file = tmp_path / "config.yaml"
    given_fields = {**MODELS, **config} if tool is not None else config
    file.write_text(yaml.safe_dump(given_fields), encoding="utf-8")
    found = read_or_refused(file, tool)
    if found is None:
        return
    saved = tmp_path / "recipe.yaml"
    saved.write_text(found.text(), encoding="utf-8")
    assert Recipe.load(saved) == found.recipe
    named = {part for note in found.notes for part in (note.field, *note.field.split(" × "))} | set(
        found.empty
    )
    unsaid = {
        name
        for name in given_fields
        if name not in named and not any(one.startswith(f"{name}.") for one in named)
    }
    assert not unsaid, "every field is accounted for"
    assert {note.how for note in found.notes} <= set(TITLES)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text() | st.binary().map(lambda value: value.decode("latin-1")),
    suffix=st.sampled_from([".yaml", ".json", ".sh"]),
)
def test_any_text_is_read_or_refused(text: str, suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"config{suffix}"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(PtuneError):  # no random text names a model of a known tool
        read_foreign(file)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &a [*a]\nbase_model: x\nsequence_len: 3\n", "nested too deeply"),
        ("a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
            f"{chr(98 + at)}: &{chr(98 + at)} [{','.join([f'*{chr(97 + at)}'] * 10)}]\n" for at in range(8)), "20,000 values"),
        ("[" * 3000, "cannot be read"),
        ("x: !!python/object/apply:os.system ['true']\n", "cannot be read"),
        ("- 1\n", "holds no fields"),
        ("", "holds no fields"),
        ("x: 2001-99-99\n", "cannot be read"),
        ("#" * (LARGEST_BYTES + 1), "larger than"),
    ],
)  # fmt: skip
def test_files_that_are_no_config(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(UsageError, match=said):
        read_foreign(file)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_foreign(tmp_path / "none.yaml")


def test_launchers_are_told_apart(tmp_path: Path) -> None:
    file = tmp_path / "fsdp.yaml"
    file.write_text("compute_environment: LOCAL_MACHINE\ndistributed_type: FSDP\n")
    with pytest.raises(UsageError, match="accelerate launch"):
        read_foreign(file)
    file.write_text("one: 1\n")
    with pytest.raises(UsageError, match="--from"):
        read_foreign(file)


def test_the_recipe_says_what_it_comes_from(tmp_path: Path) -> None:
    file = tmp_path / "my config.yaml"
    file.write_text(
        json.dumps({"base_model": "a/b", "micro_batch_size": 2, "sequence_len": 64, "deepspeed": "x.json"})
    )
    found = read_foreign(file)
    comments = [line for line in found.text().splitlines() if line.startswith("#")]
    assert "my config.yaml" in comments[0]
    assert any("deepspeed" in line for line in comments)
    assert found.recipe.name == "my-config"
