"""Adapters put into a running engine out of memory: what the same files in a bundle would answer, version by version."""

from __future__ import annotations

import json
import queue
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from support.bundles import peft_folder, tiny_bundle
from support.end_adapters import ends_folder
from support.other_adapters import save_adapter
from support.prompt_adapters import save_prompt
from transformers import AutoModelForCausalLM, PreTrainedModel

from ptune.engine.adapters.folder import install
from ptune.engine.decoder.engine import Engine
from ptune.engine.decoder.request import Request, Token
from ptune.engine.decoder.ticket import until_finish
from ptune.engine.kernels import PACKAGE
from ptune.engine.sampling import Sampling
from ptune.errors import AdapterError, RequestError
from ptune.formats.bundle import BASE, Bundle

Tensors = dict[str, np.ndarray[Any, Any]]
PROMPT = tuple(int(token) for token in np.random.default_rng(7).integers(4, 500, 48))
GREEDY = Sampling(temperature=0)
built = pytest.mark.skipif(
    find_spec(PACKAGE) is None, reason="ptune-kernels is not built: scripts/kernels does it"
)


@dataclass(frozen=True)
class Place:
    base: Path
    bundle: Bundle
    folders: Mapping[str, Path]

    def saved(self, name: str) -> tuple[dict[str, Any], Tensors]:
        """What peft wrote: adapter_config.json and adapter_model.safetensors."""
        folder = self.folders[name]
        config = json.loads((folder / "adapter_config.json").read_text())
        return config, load_file(folder / "adapter_model.safetensors")

    def put(self, engine: Engine, name: str, saved: str) -> int:
        return engine.put(name, *self.saved(saved))


def fresh(base: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return model


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A bundle with the adapters v1, v2, patterns, …, each of which also lies in a folder of its own."""
    root = tmp_path_factory.mktemp("put")
    base, _, bundle = tiny_bundle(root, ends=("biases", "gains"))
    folders = {
        "v1": peft_folder(base, root / "v1", seed=1),
        "v2": peft_folder(base, root / "v2", seed=2),
        "one": peft_folder(base, root / "one", seed=3, r=1),
        "patterns": peft_folder(
            base, root / "patterns", seed=4, use_rslora=True, rank_pattern={"q_proj": 7}, alpha_pattern={"o_proj": 3}
        ),
        "some": peft_folder(base, root / "some", seed=5, target_modules=["down_proj"]),
        "wide": peft_folder(base, root / "wide", seed=6, r=24),
        "biases": peft_folder(base, root / "biases", seed=7, lora_bias=True),
        "loha": save_adapter("loha", {"r": 2}, fresh(base), root / "loha"),
        "ia3": save_adapter("ia3", {}, fresh(base), root / "ia3"),
        "prefix": save_prompt(base, root / "prefix", "prefix"),
    }  # fmt: skip
    for name, folder in folders.items():
        install(bundle, folder, name)
    return Place(base, bundle, folders)


def opened(bundle: Bundle, **options: Any) -> Engine:
    return Engine.open(bundle, replay_golden=False, **{"threads": 1, "max_rows": 4, **options})


@pytest.fixture
def engine(place: Place) -> Iterator[Engine]:
    with closing(opened(place.bundle)) as engine:
        yield engine


def asked(adapter: str, prompt: tuple[int, ...] = PROMPT, tokens: int = 12) -> Request:
    return Request(prompt, adapter, GREEDY, max_tokens=tokens, logprobs=3)


def answer(engine: Engine, adapter: str) -> list[Token]:
    (tokens,) = engine.generate_all([asked(adapter)])
    return tokens


@pytest.mark.parametrize("name", ["v1", "one", "patterns", "some", "wide", "biases", "loha", "ia3", "prefix"])
def test_it_answers_as_the_same_files_in_a_bundle(place: Place, engine: Engine, name: str) -> None:
    assert place.put(engine, "policy", name) == 1
    assert answer(engine, "policy") == answer(engine, name) != answer(engine, BASE)
    record, read = engine.record("policy"), engine.record(name)
    assert record is not None
    assert read is not None
    assert (record.rank, record.virtual_tokens, record.in_sums) == (read.rank, read.virtual_tokens, read.in_sums)  # fmt: skip


@pytest.mark.parametrize("kernels", ["off", pytest.param("own", marks=built)])
def test_each_version_has_keys_and_values_of_its_own(place: Place, kernels: str) -> None:
    """The same prompt is asked of version after version, so that what one left in the cache would show in the next."""
    with closing(opened(place.bundle, kernels=kernels)) as fresh:
        expected = {name: answer(fresh, name) for name in ("v1", "v2")}
    assert expected["v1"] != expected["v2"]
    with closing(opened(place.bundle, kernels=kernels, max_rows=1)) as engine:  # one slot for all
        for version, saved in enumerate(("v1", "v2", "v1", "v1", "v2"), 1):
            assert place.put(engine, "policy", saved) == version
            before = engine.stats().reused
            assert answer(engine, "policy") == expected[saved]
            assert engine.stats().reused == before
            assert ids(answer(engine, "policy")) == ids(expected[saved])
            assert engine.stats().reused > before  # within a version, the cache is used


def test_it_is_in_no_file_and_known_everywhere(place: Place, tmp_path: Path) -> None:
    bundle = Bundle.open(shutil.copytree(place.bundle.folder, tmp_path / "bundle"))
    files = {path: path.read_bytes() for path in bundle.folder.rglob("*") if path.is_file()}
    with closing(opened(bundle)) as engine:
        place.put(engine, "policy", "v1")
        assert "policy" in engine.adapters
        assert "policy" in engine.in_memory
        assert engine.vocab_size("policy") == engine.signature.vocab_size
        stats = engine.adapter_stats()
        assert (stats.served, stats.names[0]) == (len(place.folders) + 1, "policy")
        engine.refresh()
        assert answer(engine, "policy") == answer(engine, "v1")
        engine.drop_adapter("policy")
        assert "policy" not in engine.adapters
        with pytest.raises(RequestError) as error:
            engine.submit(asked("policy"), lambda _: None)
        assert error.value.status == 404
        assert place.put(engine, "policy", "v2") == 2
        assert answer(engine, "policy") == answer(engine, "v2")
    assert {path: path.read_bytes() for path in bundle.folder.rglob("*") if path.is_file()} == files


def test_it_replaces_one_of_the_bundle_until_that_is_loaded_again(place: Place, engine: Engine) -> None:
    expected = {name: answer(engine, name) for name in ("v1", "v2")}
    place.put(engine, "v1", "v2")
    assert answer(engine, "v1") == expected["v2"]
    engine.load_adapter("v1")
    assert answer(engine, "v1") == expected["v1"]
    assert place.put(engine, "v1", "v2") == 2


def test_the_callers_arrays_are_the_callers(place: Place, engine: Engine) -> None:
    """Also of rank 1, whose factors lie in memory as the graph takes them."""
    for name in ("one", "prefix"):
        config, tensors = place.saved(name)
        engine.put("policy", config, tensors)
        for tensor in tensors.values():
            tensor[:] = 9
        config["r"] = 3
        assert answer(engine, "policy") == answer(engine, name)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c, t: c.update(peft_type="BONE"), "'policy' holds an adapter of peft_type 'BONE'"),
        (lambda c, t: c.update(use_dora=True), r"'policy' holds an adapter of LORA \(DoRA\)"),
        (lambda c, t: c.update(r=5), r"the adapter 'policy' cannot be served:\n.*the base needs \[5, "),
        (lambda c, t: c.update(r="many"), "the config of 'policy' cannot be used: r: .*integer"),
        (lambda c, t: c.update(rank_pattern={"(": 3}), r"the config of 'policy': '\(' is not a valid pattern"),
        (lambda c, t: t.popitem(), "is missing: model"),
        (lambda c, t: t.clear(), "no LoRA factors"),
        (lambda c, t: next(iter(t.values())).fill(np.nan), "values that are not finite"),
        (lambda c, t: t.update(x=[1.0]), "'policy': 'x' is a list, and has to be a numpy array"),
        (lambda c, t: t.update(x=np.zeros(3)), "'policy': 'x' has numbers of float64, and they have to be float32"),
        (lambda c, t: t.update(x=np.zeros(3, int)), "'x' holds whole numbers"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_and_the_one_before_stays(
    place: Place, engine: Engine, change: Callable[[dict[str, Any], Tensors], object], words: str
) -> None:
    place.put(engine, "policy", "v1")
    config, tensors = place.saved("v2")
    change(config, tensors)
    with pytest.raises(AdapterError, match=words):
        engine.put("policy", config, tensors)
    assert answer(engine, "policy") == answer(engine, "v1")
    assert place.put(engine, "policy", "v2") == 2


@pytest.mark.parametrize("name", ["", BASE, ".hidden", "a/b"])
def test_names_that_cannot_be(place: Place, engine: Engine, name: str) -> None:
    with pytest.raises(AdapterError, match="must be a plain folder name"):
        place.put(engine, name, "v1")


def test_virtual_tokens_that_take_the_bases_weights_are_refused(place: Place, engine: Engine, tmp_path: Path) -> None:  # fmt: skip
    folder = save_prompt(place.base, tmp_path / "prompt", "prompt")
    config = json.loads((folder / "adapter_config.json").read_text())
    with pytest.raises(
        AdapterError, match="'policy' holds an adapter of PROMPT_TUNING, whose keys and values take"
    ):
        engine.put("policy", config, load_file(folder / "adapter_model.safetensors"))


def test_sums_with_it_are_of_its_version(place: Place, engine: Engine) -> None:
    for saved in ("v1", "v2", "patterns"):
        place.put(engine, "policy", saved)
        assert answer(engine, "some+0.5*policy") == answer(engine, f"some+0.5*{saved}")
    place.put(engine, "policy", "prefix")
    with pytest.raises(RequestError, match="'policy' brings virtual tokens, and is no part of a sum"):
        answer(engine, "some+0.5*policy")
    engine.drop_adapter("policy")
    with pytest.raises(RequestError, match="no adapter"):
        answer(engine, "some+0.5*policy")


def test_it_stays_in_memory_while_others_make_room(place: Place) -> None:
    with closing(opened(place.bundle)) as roomy:
        expected = {name: answer(roomy, name) for name in place.folders}
        size, wide = bytes_of(roomy, "v1"), bytes_of(roomy, "wide")
    with closing(opened(place.bundle, adapter_bytes=size + wide)) as engine:
        place.put(engine, "policy", "v1")
        for name in (*place.folders, *place.folders):
            assert ids(answer(engine, name)) == ids(expected[name])
            assert ids(answer(engine, "policy")) == ids(expected["v1"])
        assert engine.adapter_stats().evictions


def ids(tokens: Iterable[Token]) -> list[int]:
    """Where chunks are of other sizes, logits may be others by a rounding."""
    return [token.id for token in tokens]


def bytes_of(engine: Engine, name: str) -> int:
    """Of an adapter in memory alone."""
    with engine._changed:
        return engine._registry._cache._entries[name].bytes


def test_what_has_no_room_is_refused_in_a_sentence(place: Place) -> None:
    with closing(opened(place.bundle)) as roomy:
        size, wide = bytes_of(roomy, "v1"), bytes_of(roomy, "wide")
    with closing(opened(place.bundle, adapter_bytes=wide + size - 1)) as engine:
        place.put(engine, "policy", "v1")
        room = rf"; all together may take {wide + size - 1}, of which {size} are of adapters that were put"
        with pytest.raises(AdapterError, match=rf"'other' takes {wide} bytes of memory{room}"):
            place.put(engine, "other", "wide")
        (refused,) = engine.generate_all([asked("wide")])  # of the bundle: it would wait for room for ever
        assert refused[-1].error is not None
        assert room[2:] in refused[-1].error
        with pytest.raises(AdapterError, match=room):
            engine.load_adapter("wide")
        assert place.put(engine, "policy", "wide") == 2  # in place of the small one there is room


def test_a_version_in_use_leaves_room_only_when_it_ends(place: Place) -> None:
    with closing(opened(place.bundle)) as roomy:
        size, expected = bytes_of(roomy, "wide"), answer(roomy, "wide")
    with closing(opened(place.bundle, adapter_bytes=size * 3 // 2)) as engine:
        place.put(engine, "policy", "wide")
        came: queue.SimpleQueue[Token] = queue.SimpleQueue()
        ticket = engine.submit(asked("policy", tokens=400), came.put)
        came.get(timeout=120)
        with pytest.raises(
            AdapterError, match="are in use by requests: put it when some of these have ended"
        ):
            place.put(engine, "policy", "wide")
        ticket.cancel()
        while came.get(timeout=120).finish is None:
            pass
        while engine.stats().running:
            pass
        assert place.put(engine, "policy", "wide") == 2
        assert answer(engine, "policy") == expected


def test_streams_end_under_the_version_that_they_began_with(place: Place) -> None:
    """Twenty times another version under four streams at a time: each is as if its version had been alone."""
    prompts = [PROMPT[: 10 + 6 * at] for at in range(4)]
    with closing(opened(place.bundle)) as alone:
        expected = {
            (name, prompt): alone.generate_all([asked(name, prompt, tokens=40)])[0]
            for name in ("v1", "v2")
            for prompt in prompts
        }
    with closing(opened(place.bundle)) as engine:
        place.put(engine, "policy", "v1")
        begun, stop = threading.Lock(), threading.Event()
        now = ["v1"]
        wrong: list[tuple[str, tuple[int, ...]]] = []
        streams: list[int] = []

        def stream(prompt: tuple[int, ...]) -> None:
            while not stop.is_set():
                with begun:
                    name, tokens = now[0], engine.generate(asked("policy", prompt, tokens=40))
                if ids(tokens) != ids(expected[name, prompt]):
                    wrong.append((name, prompt))
                streams.append(1)

        threads = [threading.Thread(target=stream, args=(prompt,)) for prompt in prompts]
        for thread in threads:
            thread.start()
        for turn in range(20):
            steps = engine.stats().steps
            while engine.stats().steps < steps + 7:
                assert all(thread.is_alive() for thread in threads)
            with begun:
                now[0] = ("v2", "v1")[turn % 2]
                assert place.put(engine, "policy", now[0]) == turn + 2
        stop.set()
        for thread in threads:
            thread.join(timeout=20)
    assert not wrong
    assert len(streams) >= 4


def test_tokens_that_an_adapter_has_no_more_are_refused_alone(tmp_path: Path) -> None:
    """They stand in a text that waited for an adapter which another one replaced meanwhile."""
    base, _, bundle = tiny_bundle(tmp_path, ends=("head", "embedding", "tokens"))
    vocab = bundle.decoder.vocab_size
    place = Place(base, bundle, {"plain": peft_folder(base, tmp_path / "plain", seed=1)})
    for name, folder in {
        "own": ends_folder(base, tmp_path / "own", new=("<a>", "<b>")),
        **place.folders,
    }.items():
        install(bundle, folder, name)
    with closing(opened(bundle)) as engine:
        expected = {name: answer(engine, name) for name in (BASE, "plain")}
        assert engine.vocab_size("own") == vocab + 2
        came: list[queue.SimpleQueue[Token]] = [queue.SimpleQueue() for _ in range(3)]
        with engine._changed:  # nothing is read, and nothing computed meanwhile
            engine._registry._cache.drop("own")
            for at, request in enumerate((asked("own", (*PROMPT, vocab + 1)), asked("own"), asked(BASE))):
                engine.submit(request, came[at].put)
            place.put(engine, "own", "plain")
        (refused,), *others = ([*until_finish(one)] for one in came)
        assert (refused.finish, refused.error) == (
            "error",
            "adapter 'own' was replaced by one with fewer tokens",
        )
        assert others == [expected["plain"], expected[BASE]]


def test_who_waits_for_an_adapter_that_is_put_gets_what_was_put(place: Place) -> None:
    with closing(opened(place.bundle)) as roomy:
        expected = answer(roomy, "v2")
    with closing(opened(place.bundle)) as engine:
        came: queue.SimpleQueue[Token] = queue.SimpleQueue()
        with engine._changed:  # nothing is read meanwhile
            engine._registry._cache.drop("v1")  # as if it had made room for others
            engine.submit(asked("v1"), came.put)
            assert engine.adapter_stats().wanted == ("v1",)
            place.put(engine, "v1", "v2")
        tokens = [came.get(timeout=120)]
        while tokens[-1].finish is None:
            tokens.append(came.get(timeout=120))
        assert tokens == expected
