"""From what was chosen on the page to a recipe's file that the command line reads."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptune.begin.starts import STARTS, Word
from ptune.config.read_recipe import read_recipe
from ptune.config.recipe import Recipe
from ptune.errors import RecipeError, UsageError
from ptune.methods.vera import Vera
from ptune.studio.data import choice
from ptune.studio.data.choice import Choice
from ptune.studio.recipe import drafts
from ptune.studio.recipe.drafts import Draft
from ptune.studio.recipe.forms import changed
from ptune.studio.workspace import Workspace

TWEETS = Choice(("data/tweets.csv",), "classify", {"text": "message", "label": "mood"})


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def _draft(workspace: Workspace, **changes: object) -> Draft:
    draft = drafts.of_choice(workspace, TWEETS)
    assert draft is not None
    return replace(draft, **changes)  # type: ignore[arg-type]


def test_a_choice_is_remembered(workspace: Workspace) -> None:
    assert choice.load(workspace) == Choice()
    choice.save(workspace, TWEETS)
    assert choice.load(workspace) == TWEETS


@given(
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_a_damaged_file_is_no_choice_and_no_draft(value: object) -> None:
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder))
        for name in ("chosen.json", "draft.json"):
            (workspace.own / name).write_text(
                json.dumps({"files": value, "task": value, "columns": value, "preset": value})
            )
        assert isinstance(choice.load(workspace), Choice)
        drafts.kept(workspace, TWEETS)


def test_the_file_reads_back_as_the_recipe(workspace: Workspace) -> None:
    draft = _draft(workspace, preset="quick", method="Vera", changes={"train.lr": "2e-3"})
    path = draft.write(workspace)
    assert path == workspace.folder / "recipes" / "tweets.yaml"
    recipe = Recipe.load(path)
    assert recipe == draft.recipe()
    assert (recipe.name, recipe.train.lr, recipe.train.max_steps) == ("tweets", 2e-3, 20)
    assert isinstance(recipe.method, Vera)
    assert recipe.task.columns.named == {"text": "message", "label": "mood"}
    assert recipe.data.files == (Path("data/tweets.csv"),)


def test_names_are_free_ones(workspace: Workspace) -> None:
    assert _draft(workspace).name == "tweets"
    workspace.recipe("tweets").write_text("name: tweets")
    assert _draft(workspace).name == "tweets-2"
    workspace.run("tweets-2").mkdir()
    assert _draft(workspace).name == "tweets-3"
    odd = drafts.of_choice(workspace, replace(TWEETS, files=("data/été 2024 (final).csv",)))
    assert odd is not None
    assert odd.write(workspace).is_file()


def test_what_others_wrote_is_not_replaced(workspace: Workspace) -> None:
    draft = _draft(workspace)
    draft.write(workspace)
    other = replace(draft, changes={"train.lr": "2e-3"})
    other.write(workspace)  # the page's own file
    workspace.recipe("tweets").write_text("name: tweets\n# mine\n")
    with pytest.raises(UsageError, match="was written or changed by others: call this one tweets-2"):
        draft.write(workspace)
    workspace.recipe("tweets").unlink()
    other.write(workspace)
    workspace.run("tweets").mkdir()
    with pytest.raises(UsageError, match="runs/tweets has another recipe: call this one tweets-2"):
        draft.write(workspace)
    assert other.write(workspace).is_file(), "the same recipe may be written again"


def test_a_plan_leaves_no_recipe_and_takes_no_name(workspace: Workspace) -> None:
    draft = _draft(workspace, task="chat", columns={}, preset="quick")
    path = draft.write_for_plan(workspace)
    assert path == workspace.folder / ".studio" / "plans" / "tweets.yaml"
    assert Recipe.load(path) == draft.recipe()
    assert list(workspace.recipes.iterdir()) == []
    assert drafts.free_name(workspace, "tweets") == "tweets"
    written = draft.write(workspace)
    assert draft.write_for_plan(workspace) == written, "it says the same"
    other = replace(draft, changes={"train.lr": "2e-3"})
    assert Recipe.load(other.write_for_plan(workspace)).train.lr == 2e-3
    assert Recipe.load(written) == draft.recipe()


@pytest.mark.parametrize(
    ("word", "predicted"), [("chat", True), ("preferences", True), ("classify", False), ("embed", False)]
)
def test_for_which_tasks_memory_is_predicted(workspace: Workspace, word: str, predicted: bool) -> None:
    assert _draft(workspace, task=word, columns={}).memory_is_predicted is predicted


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden"])
def test_a_bad_name_is_a_sentence(workspace: Workspace, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be a name"):
        _draft(workspace, name=name).write(workspace)
    assert list(workspace.recipes.iterdir()) == []


def test_a_wrong_value_writes_nothing(workspace: Workspace) -> None:
    with pytest.raises(RecipeError, match=r"train\.lr"):
        _draft(workspace, changes={"train.lr": "much"}).write(workspace)
    assert list(workspace.recipes.iterdir()) == []


def test_a_draft_is_kept_for_its_data(workspace: Workspace) -> None:
    assert drafts.kept(workspace, Choice()) is None
    draft = _draft(workspace, name="mine", preset="best", changes={"train.lr": "1e-3"})
    drafts.keep(workspace, draft)
    assert drafts.kept(workspace, TWEETS) == draft
    other = drafts.kept(workspace, replace(TWEETS, files=("data/other.csv",)))
    assert other is not None
    assert (other.name, other.changes) == ("other", {})


@pytest.mark.parametrize("word", STARTS)
def test_a_recipe_that_is_there_opens_as_it_is(workspace: Workspace, word: Word) -> None:
    """Whoever wrote it: the form means the same recipe, under another name."""
    recipe = changed(read_recipe(STARTS[word].recipe), {"train.lr": "1e-5", "data.limit": "7"})
    recipe.save(workspace.recipe("theirs"))
    draft = drafts.of_recipe(workspace, "theirs")
    assert (draft.name, draft.task) == ("theirs-2", word)
    assert draft.recipe() == recipe.model_copy(update={"name": "theirs-2"})


def test_a_recipe_without_a_form_is_a_sentence(workspace: Workspace) -> None:
    read_recipe("recommend_lora").save(workspace.recipe("items"))
    with pytest.raises(UsageError, match="is for Recommendation, which has no form"):
        drafts.of_recipe(workspace, "items")
    workspace.recipe("bad").write_text("train: {lr: [")
    with pytest.raises(RecipeError, match="cannot read the recipe"):
        drafts.of_recipe(workspace, "bad")


def test_what_is_wrong_with_an_option_is_told_of_that_option() -> None:
    draft = Draft("mine", ("a.csv",), "classify", changes={"train.lr": "fast", "train.batch_size": "4"})
    wrong = draft.wrong_options()
    assert list(wrong) == ["train.lr"]
    assert "fast" in wrong["train.lr"]
