"""Two tasks in one batch are what plain peft says of each alone; whatever goes wrong concerns one item only."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.encoder_bundles import damage, tiny

from ptune.engine.encoder.batch import Item
from ptune.engine.encoder.engine import EncoderEngine
from ptune.errors import AdapterError, FormatError, ParityError, PtuneError, RequestError, UsageError
from ptune.formats.bundle import BASE, Bundle
from ptune.formats.whole_write import sha256_of, write_json


@pytest.fixture(scope="module")
def engine() -> Iterator[EncoderEngine]:
    with closing(EncoderEngine.open(tiny().bundle, threads=1)) as opened:
        yield opened


def mixed() -> list[tuple[int, str]]:
    return [(index, name) for index in range(len(tiny().inputs)) for name in ("mood", "names", BASE)]


def test_two_tasks_in_one_batch_are_what_torch_says(engine: EncoderEngine) -> None:
    jobs = [job for job in mixed() if job[1] != BASE]
    before = engine.stats()
    found = engine.logits([Item(tiny().inputs[index], name) for index, name in jobs])
    after = engine.stats()
    assert after.passes - before.passes < (after.rows - before.rows) / 2  # they did share passes
    for (index, name), logits in zip(jobs, found, strict=True):
        expected = tiny().expected(index, name)
        np.testing.assert_allclose(logits, expected, atol=2e-5)
        assert (logits.argmax(-1) == expected.argmax(-1)).all()


def test_neighbours_change_nothing(engine: EncoderEngine) -> None:
    together = engine.logits([Item(tiny().inputs[index], name) for index, name in mixed()])
    for (index, name), among in zip(mixed(), together, strict=True):
        (alone,) = engine.logits([Item(tiny().inputs[index], name)])
        np.testing.assert_allclose(among, alone, rtol=1e-5, atol=1e-5)
        assert (among.argmax(-1) == alone.argmax(-1)).all()


def test_the_base_is_not_moved_by_adapters_beside_it(engine: EncoderEngine) -> None:
    one = tiny().inputs[0]
    alone, *_ = engine.logits([Item(one)])
    beside, *_ = engine.logits([Item(one), Item(one, "mood"), Item(one, "names")])
    np.testing.assert_allclose(beside, alone, rtol=1e-5, atol=1e-5)
    assert alone.shape == (len(one["input_ids"]), 32)


@pytest.mark.parametrize(
    ("item", "code", "status"),
    [
        (Item({"input_ids": np.array([5])}, "mod"), "model_not_found", 404),
        (Item({"input_ids": np.array([], np.int64)}, "mood"), None, 400),
        (Item({"input_ids": np.full(49, 5)}, "mood"), "context_length_exceeded", 400),
    ],
)
def test_what_cannot_be_encoded_is_refused_by_name(
    item: Item, code: str | None, status: int, engine: EncoderEngine
) -> None:
    with pytest.raises(RequestError) as caught:
        engine.submit(item)
    assert (caught.value.code, caught.value.status) == (code, status)


def test_nobody_fails_for_his_neighbours_sake(engine: EncoderEngine) -> None:
    """A token that the vocabulary has not makes the whole pass fail; the others are computed all the same."""
    good = [Item(tiny().inputs[0], "mood"), Item(tiny().inputs[1], "names")]
    bad = Item({"input_ids": np.array([2, 10_000, 3])}, "mood")
    with engine._changed:  # so that they wait together
        futures = [engine.submit(item) for item in (good[0], bad, good[1])]
    np.testing.assert_allclose(futures[0].result(), tiny().expected(0, "mood"), atol=2e-5)
    np.testing.assert_allclose(futures[2].result(), tiny().expected(1, "names"), atol=2e-5)
    with pytest.raises(PtuneError, match="could not compute"):
        futures[1].result()


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_an_output_that_is_no_number_is_no_answer(wrong: float) -> None:
    with closing(EncoderEngine.open(tiny().bundle, threads=1, replay_golden=False)) as engine:
        compute = engine._body.hidden

        def hidden(inputs: Any, factors: Any) -> Any:
            found = compute(inputs, factors).copy()
            found[inputs["input_ids"][:, 0] == 3, 0] = wrong
            return found

        engine._body.hidden = hidden  # type: ignore[method-assign]
        texts = [Item({"input_ids": np.array([first, 7, 8])}) for first in (2, 3, 4)]
        with engine._changed:  # so that they wait together
            good, bad, other = [engine.submit(text) for text in texts]
        assert np.isfinite(good.result()).all()
        assert np.isfinite(other.result()).all()
        with pytest.raises(PtuneError, match="is not a number"):
            bad.result()


class Held:
    """An engine whose thread waits inside a pass until it is let go."""

    def __init__(self, **options: Any) -> None:
        self.go, self.inside = threading.Event(), threading.Event()
        self.engine = EncoderEngine.open(tiny().bundle, threads=1, replay_golden=False, **options)
        compute = self.engine._body.hidden

        def run(*arguments: object) -> object:
            self.inside.set()
            self.go.wait(20)
            return compute(*arguments)  # type: ignore[arg-type]

        self.engine._body.hidden = run  # type: ignore[method-assign,assignment]
        self.first = self.engine.submit(Item(tiny().inputs[0], "mood"))
        assert self.inside.wait(20)


def test_a_full_queue_says_so() -> None:
    held = Held(max_waiting=2)
    with closing(held.engine) as engine:
        waiting = [engine.submit(Item(tiny().inputs[1], "mood")) for _ in range(2)]
        assert engine.stats().waiting == 2
        with pytest.raises(RequestError) as caught:
            engine.submit(Item(tiny().inputs[1], "mood"))
        assert (caught.value.code, caught.value.status) == ("queue_full", 429)
        held.go.set()
        assert all(one.result(20).shape == (3,) for one in (held.first, *waiting))


def test_what_is_cancelled_is_not_computed() -> None:
    held = Held()
    with closing(held.engine) as engine:
        kept, dropped = (engine.submit(Item(tiny().inputs[index], "mood")) for index in (1, 2))
        assert dropped.cancel()
        held.go.set()
        kept.result(20)
        assert engine.drain(20)
        assert engine.stats().rows == 2
        with pytest.raises(RequestError) as caught:
            engine.submit(Item(tiny().inputs[1], "mood"))
        assert caught.value.status == 503


def test_closing_cancels_what_waits() -> None:
    held = Held()
    waits = held.engine.submit(Item(tiny().inputs[1], "mood"))
    threading.Timer(0.2, held.go.set).start()
    held.engine.close()
    with pytest.raises(CancelledError):
        waits.result(20)
    assert held.first.result(20).shape == (3,)
    held.engine.close()


def test_a_dropped_adapter_finishes_what_it_has_begun() -> None:
    held = Held()
    with closing(held.engine) as engine:
        begun = engine.submit(Item(tiny().inputs[1], "names"))
        engine.drop_adapter("names")
        with pytest.raises(RequestError, match="served: mood"):
            engine.submit(Item(tiny().inputs[1], "names"))
        held.go.set()
        np.testing.assert_allclose(begun.result(20), tiny().expected(1, "names"), atol=2e-5)
        engine.load_adapter("names")
        assert engine.adapters == ["mood", "names"]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny().bundle.folder, tmp_path / "bundle"))


@pytest.mark.parametrize(
    "file",
    [
        "graphs/fp32/model.onnx",
        "graphs/fp32/model.onnx.data",
        "adapters/mood/head.onnx",
        "adapters/mood/adapter_model.safetensors",
        "adapters/names/adapter.json",
        "golden/inputs.npz",
        "golden/golden.json",
    ],
)
def test_a_damaged_file_is_named(file: str, copy: Path) -> None:
    damage(copy / file)
    with pytest.raises(FormatError, match=file.rpartition("/")[2]):
        EncoderEngine.open(copy, threads=1)


def test_a_missing_head_is_named(copy: Path) -> None:
    (copy / "adapters" / "names" / "head.onnx").unlink()
    with pytest.raises(FormatError, match=r"names/head\.onnx is missing"):
        EncoderEngine.open(copy, threads=1)


def test_a_machine_that_computes_otherwise_does_not_answer(copy: Path) -> None:
    bundle = Bundle.open(copy)
    golden = json.loads(bundle.golden_path.read_text())
    golden["cases"][-1]["logits"][0][0] += 0.01
    write_json(bundle.golden_path, golden)
    files = {**bundle.manifest.golden, "golden/golden.json": sha256_of(bundle.golden_path)}
    bundle.write_manifest(bundle.manifest.model_copy(update={"golden": files}))
    with pytest.raises(ParityError, match="computes otherwise"):
        EncoderEngine.open(copy, threads=1)


def test_an_adapter_of_another_base_is_refused(copy: Path) -> None:
    bundle = Bundle.open(copy)
    base = bundle.manifest.base.model_copy(update={"hash": "other"})
    bundle.write_manifest(bundle.manifest.model_copy(update={"base": base}))
    with pytest.raises(AdapterError, match="another base"):
        EncoderEngine.open(copy, threads=1)


@pytest.mark.parametrize("option", ["max_rows", "max_waiting", "threads"])
def test_options_are_checked(option: str) -> None:
    with pytest.raises(UsageError, match=option):
        EncoderEngine.open(tiny().bundle, **{option: -1})  # type: ignore[arg-type]
