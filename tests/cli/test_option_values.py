"""A value that an option cannot have is said in the words of a recipe's fields, not in pydantic's or Python's."""

from __future__ import annotations

import pytest

from ptune.cli.parse import parse
from ptune.cli.train import TrainOptions, resolve
from ptune.config.read_recipe import read_recipe
from ptune.errors import RecipeError
from ptune.methods.lora import Lora


def resolved(recipe: str, *arguments: str) -> TrainOptions:
    return resolve(read_recipe(recipe), list(arguments), "ptune train", TrainOptions)


@pytest.mark.parametrize(
    ("recipe", "arguments", "message"),
    [
        ("chat_lora", "--train.lr=-1", "train.lr must be greater than 0; it is -1.0"),
        ("chat_lora", "--method.r 0", "method.r must be greater than or equal to 1; it is 0"),
        ("chat_lora", "--data.validation-share 2", "data.validation_share must be less than 1; it is 2.0"),
        (
            "sentiment_lora",
            "--task.columns.text a --task.columns.label a",
            "task.columns: text and label are the same column, 'a'",
        ),
        (
            "chat_lora",
            "--plan.memory much",
            "plan.memory: 'much' is not an amount of memory: say 24GB or 24GiB",
        ),
        (
            "chat_lora",
            "--train.epochs 0 --method.r 0",
            "method.r must be greater than or equal to 1; it is 0; train.epochs must be greater than 0; it is 0.0",
        ),
    ],
)
def test_the_field_and_the_value_are_named(recipe: str, arguments: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        resolved(recipe, *arguments.split())
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("option", "word", "message"),
    [
        ("--train.lr", "fast", "it must be a number; it is 'fast'"),
        ("--train.batch-size", "1.5", "it must be a whole number; it is '1.5'"),
        ("--train.max-steps", "ten", "it must be a whole number or None; it is 'ten'"),
        ("--train.dropout", "little", "it must be a number or None; it is 'little'"),
    ],
)
def test_what_is_no_number_is_said_plainly(
    option: str, word: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        resolved("chat_lora", option, word)
    assert caught.value.code == 2
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert message in said
    for raw in ("could not convert", "invalid literal", "no type matching", "<class", "type="):
        assert raw not in said


def test_numbers_are_read_as_ever() -> None:
    options = resolved(
        "chat_lora", "--train.lr", "3e-4", "--train.max-steps", "7", "--train.epochs", "2", "--method.r", "4"
    )
    assert isinstance(options.method, Lora)
    assert (options.train.lr, options.train.max_steps, options.train.epochs) == (3e-4, 7, 2.0)
    assert options.method.r == 4
    assert resolved("chat_lora", "--train.max-steps", "None").train.max_steps is None


def test_commands_without_a_recipe_say_it_so_too(capsys: pytest.CaptureFixture[str]) -> None:
    def listen(port: int = 8000) -> int:
        """Listens."""
        return port

    assert parse(listen, ["--port", "0"], "listen") == 0
    with pytest.raises(SystemExit):
        parse(listen, ["--port", "abc"], "listen")
    assert "it must be a whole number; it is 'abc'" in capsys.readouterr().err
