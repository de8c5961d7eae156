"""What benchmarks.decode and benchmarks.serve measure: each side, opened in a process of its own (benchmarks.workers).

A side answers `prompts` (lists of tokens, one a row) greedily with `new_tokens` each, whatever the tokens say of an end. It
tells the tokens and, for each row, the times at which they came, in seconds after the rows were handed over.
"""

from __future__ import annotations

import itertools
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.sides import Measured
from benchmarks.workers import Work

KV_BYTES = 4 << 30  # 32 rows of 2048 tokens; what is not used is not touched
ROWS = 32

Rows = Sequence[Sequence[int]]


def told(started_s: float, tokens: list[list[int]], times: list[list[float]]) -> Measured:
    """What a side measured, in the words of all of them.

    prefill_s: until the first row's first token. decode_per_s: tokens a second while all rows generate: from when the last
    of them has begun until the first one ends. whole_per_s: all tokens in all of the time.
    """
    times = [[at - started_s for at in row] for row in times]
    begun_s, ended_s = max(row[0] for row in times), min(row[-1] for row in times)
    between = sum(begun_s < at <= ended_s for row in times for at in row)
    return {
        "tokens": tokens,
        "prefill_s": min(row[0] for row in times),
        "decode_per_s": between / (ended_s - begun_s) if between else None,
        "steps_s": statistics.median(step for row in times for step in _steps(row)) if between else None,
        "whole_per_s": sum(map(len, tokens)) / max(row[-1] for row in times),
        "seconds": max(row[-1] for row in times),
    }


def _steps(row: Sequence[float]) -> list[float]:
    return [after - before for before, after in itertools.pairwise(row)]


def open_engine(folder: Path, profile: str, threads: int) -> Any:
    from ptune.engine.decoder.engine import Engine
    from ptune.formats.bundle import Bundle

    bundle = Bundle.open(folder)
    gated = bundle.golden_file(profile).is_file()  # of random weights no profile is
    return Engine.open(
        bundle, profile=profile, threads=threads, kv_bytes=KV_BYTES, max_rows=ROWS, num_speculative_tokens=0,
        replay_golden=gated,
    )  # fmt: skip


def engine(bundle: Path, profile: str, threads: int) -> Work:
    """ptune's engine: its thread, its scheduler, its sampling; everything but HTTP. Without speculation: each step one token."""
    return answering(open_engine(bundle, profile, threads))


def answering(opened: Any) -> Work:
    """The work of an open engine."""
    from ptune.engine.decoder.request import Request, Token
    from ptune.engine.sampling import Sampling
    from ptune.formats.bundle import BASE

    def work(prompts: Rows, new_tokens: int, adapters: Sequence[str] | None = None) -> Measured:
        tokens: list[list[int]] = [[] for _ in prompts]
        times: list[list[float]] = [[] for _ in prompts]
        left = threading.Semaphore(0)

        def receiver(row: int) -> Callable[[Token], None]:
            def deliver(token: Token) -> None:
                if token.error:
                    raise RuntimeError(token.error)
                tokens[row].append(token.id)
                times[row].append(time.perf_counter())
                if token.finish is not None:
                    left.release()

            return deliver

        requests = [
            Request(tuple(prompt), name, Sampling(temperature=0), new_tokens)
            for prompt, name in zip(prompts, adapters or [BASE] * len(prompts), strict=True)
        ]
        started_s = time.perf_counter()
        for row, request in enumerate(requests):
            opened.submit(request, receiver(row))
        for _ in prompts:
            if not left.acquire(timeout=600):
                raise RuntimeError("the engine did not answer within ten minutes")
        return told(started_s, tokens, times)

    return work


def llama_cpp(library: Path, model: Path, threads: int, sequences: int = ROWS) -> Work:
    """llama.cpp's own interface, without its server (ptune.llama_cpp.library)."""
    from ptune.llama_cpp.library import Llama

    llama = Llama(library, model, threads, sequences, 2048)

    def work(prompts: Rows, new_tokens: int) -> Measured:
        started_s = time.perf_counter()
        return told(started_s, *llama.greedy(prompts, new_tokens))

    return work


def transformers(model: str, threads: int) -> Work:
    """transformers' `generate` in float32, sdpa, its own cache."""
    import torch
    from transformers import StoppingCriteria, StoppingCriteriaList

    from ptune.backbone.load import load
    from ptune.config.recipe import Backbone

    torch.set_num_threads(threads)
    loaded = load(Backbone(model=model, dtype="float32"), device="cpu").model

    class Clock(StoppingCriteria):
        """Never stops anything; notes when it was asked."""

        def __init__(self) -> None:
            self.times: list[float] = []

        def __call__(self, ids: Any, _scores: Any, **_: Any) -> Any:
            self.times.append(time.perf_counter())
            return torch.zeros(len(ids), dtype=torch.bool)

    def work(prompts: Rows, new_tokens: int) -> Measured:
        ids, clock = torch.tensor(prompts), Clock()
        started_s = time.perf_counter()
        with torch.inference_mode():
            answer = loaded.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=new_tokens,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
                stopping_criteria=StoppingCriteriaList([clock]),
            )
        tokens = answer[:, ids.shape[1] :].tolist()
        return told(started_s, tokens, [clock.times] * len(prompts))

    return work


def genai(folder: Path, threads: int) -> Work:
    """onnxruntime-genai, a folder that its model builder wrote; `prepare_genai` has set the threads in it."""
    import onnxruntime_genai

    model = onnxruntime_genai.Model(str(folder))

    def work(prompts: Rows, new_tokens: int) -> Measured:
        length = len(prompts[0]) + new_tokens
        parameters = onnxruntime_genai.GeneratorParams(model)
        parameters.set_search_options(max_length=length, do_sample=False, batch_size=len(prompts))
        generator = onnxruntime_genai.Generator(model, parameters)
        times: list[float] = []
        started_s = time.perf_counter()
        import numpy as np

        generator.append_tokens(np.array(prompts, np.int32))
        for _ in range(new_tokens):
            generator.generate_next_token()
            times.append(time.perf_counter())
        tokens = [generator.get_sequence(row)[-new_tokens:].tolist() for row in range(len(prompts))]
        return told(started_s, tokens, [times] * len(prompts))

    return work


def genai_logits(folder: Path) -> Callable[[Sequence[int]], Any]:
    """onnxruntime-genai's logits [tokens, vocabulary] of one sequence."""
    import numpy as np
    import onnxruntime_genai

    model = onnxruntime_genai.Model(str(folder))

    def logits(ids: Sequence[int]) -> Any:
        parameters = onnxruntime_genai.GeneratorParams(model)
        parameters.set_search_options(max_length=len(ids) + 1, do_sample=False, batch_size=1)
        generator = onnxruntime_genai.Generator(model, parameters)
        generator.append_tokens(np.array([ids], np.int32))
        return np.asarray(generator.get_output("logits")[0], np.float32)

    return logits


def prepare_genai(model: str, folder: Path, threads: int) -> Path:
    """Builds genai's int4 model of the same float32 weights, once; its own quantisation, blocks of 32."""
    import json
    import subprocess
    import sys

    if not (folder / "genai_config.json").is_file():
        from ptune.backbone.load import load
        from ptune.backbone.tokenizer import transformers_tokenizer
        from ptune.config.recipe import Backbone

        loaded = load(Backbone(model=model, dtype="float32"), device="cpu")
        plain = folder.with_name("transformers")
        loaded.model.save_pretrained(plain)
        transformers_tokenizer(loaded.codec).save_pretrained(plain)
        del loaded
        command = [
            sys.executable,
            "-m",
            "onnxruntime_genai.models.builder",
            "-i",
            str(plain),
            "-o",
            str(folder),
        ]
        command += ["-p", "int4", "-e", "cpu", "-c", str(folder.with_name("genai.cache"))]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"onnxruntime-genai's builder failed:\n{done.stderr[-2000:]}")
    path = folder / "genai_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["model"]["eos_token_id"] = config["model"]["vocab_size"] - 1  # else it ends where it likes
    options = config["model"]["decoder"]["session_options"]
    options |= {"intra_op_num_threads": threads, "inter_op_num_threads": 1}
    path.write_text(json.dumps(config, indent=1), encoding="utf-8")
    return folder


def memory(threads: int) -> Work:
    """How fast this machine reads memory, in GB/s: the best of several passes of several kinds over one array."""
    import torch

    torch.set_num_threads(threads)

    def work(size_bytes: int) -> Measured:
        values = torch.ones(size_bytes // 4096, 1024)
        vector = torch.ones(1024)
        reads: tuple[Callable[[], Any], ...] = (
            values.sum,
            lambda: torch.mv(values, vector),
            lambda: torch.amax(values),
        )
        best_s = min(_timed(read) for read in reads for _ in range(4))
        return {"read_gb_per_s": values.nbytes / best_s / 1e9}

    return work


def _timed(read: Callable[[], Any]) -> float:
    started_s = time.perf_counter()
    read()
    return time.perf_counter() - started_s
