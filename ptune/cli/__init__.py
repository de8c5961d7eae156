"""The command line. Nothing heavy is imported before a command needs it: `ptune --help` answers at once."""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence

from ptune.cli import result
from ptune.config.recipe import Recipe
from ptune.errors import PtuneError
from ptune.version import __version__

COMMANDS = {
    "init": "begin: five questions (or options), a recipe and a sample of its data",
    "import": "a training config of Axolotl, LLaMA-Factory, TRL or torchtune -> a recipe, and what became of each field",
    "quickstart": "fine-tune, evaluate, export, prove and serve a small model on a small data set",
    "doctor": "examine a recipe's data: what would train a wrong model, in which file and line; --model MODEL: what it can do",
    "edit": "correct a row of a data file, or leave it out, in a copy of the file",
    "plan": "predict the memory that a recipe's training needs, and what to change where it does not fit",
    "mine": "find hard negatives for pairs of texts: passages that are near an anchor and not its own",
    "label": "let a bundle, the teacher, write what it thinks likely in each place of a recipe's data, for distillation",
    "train": "train a recipe: a file, a run's recipe.yaml or the name of a shipped recipe",
    "tune": "search for better values of a recipe's fields, trial by trial; or for its learning rate",
    "ask": "ask a run's model about one input, before and after training, without an export",
    "evaluate": "measure a run or a bundle on held-out data: figures, baselines, worst errors, report.html",
    "compare": "one table of evaluated runs, and whether their differences are more than luck",
    "export": "export a run (or a pretrained model) to an ONNX bundle, to GGUF or for onnxruntime-genai, proved hop by hop",
    "verify": "prove a bundle again on this machine; or, with --url, anybody's server",
    "speed": "measure how fast each profile of a bundle answers on this machine, beside its size",
    "add": "add a PEFT adapter to a bundle",
    "combine": "combine adapters of one base into one",
    "merge": "merge a run's adapter into its base: a plain transformers folder",
    "script": "write a recipe as a plain script of TRL's, which runs without ptune",
    "push": "upload a run's adapter, a bundle or another export to a model hub, with its card and parity.json",
    "serve": "serve a bundle over HTTP, with a chat page",
    "key": "make an API key for a server, limit what it may do, or take it out",
    "chat": "open the chat page on a server that is running",
    "studio": "open a page that does all of it: data, recipe, training, judging, export and serving",
    "generate": "answer a file of prompts with a bundle",
    "replay": "compute an answer of a server again from its receipt, and compare it token by token",
    "env": "print versions and hardware, for a report of a bug",
}
"""Command -> what it does. Each is a function of that name in ptune/cli/NAME.py; `import`, a word of Python's, in import_recipe.py."""

LIBRARIES = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "PYDANTIC_ERRORS_INCLUDE_URL": "0",
    "THP_MEM_ALLOC_ENABLE": "1",  # PyTorch takes tensors of 2 MiB and more in large pages; unpacked weights are new memory
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
}
"""Environment variables that libraries read, where the user has not set them."""

LOUD = ("bitsandbytes",)
"""Libraries whose log warns of what is no use to who runs a command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code: 0 done, 1 failed, 2 used wrongly, 130 interrupted."""
    if arguments is None:
        atexit.register(end_without_collecting)
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if words else 2
    if words[0] in ("-V", "--version"):
        print(f"ptune {__version__}")
        return 0
    name, rest = words[0], words[1:]
    if name not in COMMANDS:
        from ptune.config.wrong_field import nearest

        print(f"ptune: no command {name!r}{nearest(name, COMMANDS)}", file=sys.stderr)
        return 2
    return guarded(name, rest)


def end_without_collecting() -> None:
    """An ending process need not look for garbage in all that it imported: half a second."""
    if (
        "triton._C.libtriton" not in sys.modules
    ):  # it prints a page of what was not collected, as the last lines
        gc.freeze()


def guarded(name: str, arguments: list[str]) -> int:
    """Runs one command; what ptune raises on purpose is one message, not a traceback."""
    if not result.asked(name, arguments):
        return spoken(name, lambda: importlib.import_module(f"ptune.cli.{module_of(name)}").run(arguments))
    words = [word for word in arguments if word != result.FLAG]
    return result.as_json(name, lambda: guarded(name, words))


def module_of(command: str) -> str:
    """The module of ptune.cli that a command is in."""
    return "import_recipe" if command == "import" else command


def run_recipe(recipe: Recipe) -> int:
    """What a recipe file does when it is run itself: `accelerate launch recipes/NAME.py [options]`."""

    def run() -> int:
        from ptune.cli.train import train

        launched = "accelerate launch " if "ACCELERATE_MIXED_PRECISION" in os.environ else "python "
        return train(recipe, sys.argv[1:], program=launched + sys.argv[0])

    return spoken("train", run)


def set_libraries() -> None:
    """Sets the variables of LIBRARIES that the user has not set."""
    for variable, value in LIBRARIES.items():
        os.environ.setdefault(variable, value)


def spoken(name: str, run: Callable[[], int | None]) -> int:
    """The exit code of `run`; its errors in words."""
    set_libraries()
    try:
        with quiet_libraries():
            return _flushed(run)
    except PtuneError as error:
        return _failed(str(error), error.exit_code)
    except KeyboardInterrupt:
        result.tell_error("interrupted")
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `ptune … | head`: the reader has gone, and Python would complain again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in ("ptune", "ptune_serve"):
            raise
        return _failed(f"{error.name} is not installed; {extra_for(name, error.name or '')}", 1)


def _failed(why: str, code: int) -> int:
    result.tell_error(why)
    print(f"error: {why}", file=sys.stderr)
    return code


def _flushed(run: Callable[[], int | None]) -> int:
    """The exit code of `run`, with its output written: what fails here fails where errors are caught."""
    try:
        return int(run() or 0)
    finally:
        sys.stdout.flush()


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keeps what libraries warn of, mostly of their own future, from the terminal; `-W` and PYTHONWARNINGS show it."""
    if sys.warnoptions:
        yield
        return
    before = {name: logging.getLogger(name).level for name in LOUD}
    with warnings.catch_warnings():
        for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning, UserWarning):
            warnings.simplefilter("ignore", category)
        for name in LOUD:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in before.items():
                logging.getLogger(name).setLevel(level)


def extra_for(command: str, module: str = "") -> str:
    """Which extra a command needs; of a translation, whichever needs what is missing."""
    if module.split(".")[0] in ("sacrebleu", "py3langid"):
        return "run: pip install 'ptune[translation]'"
    if module.split(".")[0] == "ray":
        return "run: pip install 'ptune[ray]'"
    extras = {"serve": "serve", "generate": "serve", "chat": "ui", "studio": "studio", "tune": "tune"}
    extras |= dict.fromkeys(("doctor", "mine", "plan", "train", "evaluate", "ask"), "train") | {
        "compare": "eval"
    }
    return f"run: pip install 'ptune[{extras.get(command, 'all')}]'"


def usage() -> str:
    """`ptune --help`"""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            "usage: ptune COMMAND [options]      (ptune COMMAND --help says more)",
            "",
            "Fine-tune a model on your own hardware and serve exactly the adapter you trained.",
            "",
            *lines,
            "",
            "With --json a command prints its result as one JSON object, and all else to standard error.",
        ]
    )
