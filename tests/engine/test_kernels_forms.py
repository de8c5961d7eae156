"""The package ptune-kernels at a start: own operators that an export proved, refused, or knew nothing of."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from support.bundles import peft_folder, tiny_bundle

from ptune.engine.adapters.folder import install, write_record
from ptune.engine.decoder import golden
from ptune.engine.decoder.engine import Engine
from ptune.engine.decoder.forms import Form, is_proved, to_measure
from ptune.engine.decoder.graphs import Graphs
from ptune.engine.kernels import PACKAGE
from ptune.engine.options import KernelChoice
from ptune.errors import AdapterError, ParityError
from ptune.export.decoder.int4 import write_int4
from ptune.formats.bundle import BASE, FP32, INT4, Bundle, Hop
from ptune.formats.whole_write import read_json, write_json
from ptune.publish.steps import enter_golden, enter_graph

pytestmark = pytest.mark.skipif(
    find_spec(PACKAGE) is None,
    reason="ptune-kernels is not built: scripts/kernels does it where a C++ compiler and onnxruntime's header are",
)
PROMPTS = [[7, 8, 9], [11, 12]]


def recorded(bundle: Bundle, kernels: KernelChoice, profile: str = FP32) -> dict[str, Any]:
    """Golden vectors of every adapter, to the bit."""
    with closing(
        Engine.open(bundle, profile=profile, threads=1, kernels=kernels, replay_golden=False)
    ) as engine:
        return golden.record(engine, PROMPTS, [BASE, *bundle.manifest.adapters])


@pytest.fixture
def unproved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A bundle with golden vectors by onnxruntime's attention, as exports without the package leave it."""
    monkeypatch.setattr("ptune.engine.golden.DIGITS", 17)
    base, _, bundle = tiny_bundle(tmp_path, "llama")
    install(bundle, peft_folder(base, tmp_path / "four", spread=0.2), "four")
    write_json(bundle.golden_path, recorded(bundle, "exact"))
    enter_golden(bundle)
    return bundle


def form(bundle: Bundle, choice: KernelChoice, profile: str = FP32) -> Form:
    return Form.of(bundle, profile, "float32", choice)


def told(form: Form, *, passed: bool) -> Hop:
    """A hop of a form."""
    hop = Hop(name="fp32 → fp32", prompts=1, positions=1, top1=0.9, limit="top-1 ≥ 0.95", passed=passed)
    return form.marked(hop)


def enter(bundle: Bundle, hops: Iterable[Hop]) -> None:
    bundle.write_manifest(bundle.manifest.model_copy(update={"hops": tuple(hops)}))


def enter_of_adapter(bundle: Bundle, *hops: Hop) -> None:
    record = bundle.adapter("four")
    write_record(bundle, record.model_copy(update={"hops": hops, "parity": "measured"}))


@pytest.fixture
def proved(unproved: Bundle) -> Bundle:
    """The same, exported where the package was: with a hop of own attention that holds, and its golden vectors."""
    own = form(unproved, "own")
    enter(unproved, [told(own, passed=True)])
    enter_of_adapter(unproved, told(own, passed=True))
    content = {**recorded(unproved, "own"), "form": own.name}
    write_json(unproved.golden_file(FP32, own=True), content)
    enter_golden(unproved)
    return unproved


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each engine that opens has own attention, in order."""
    found: list[bool] = []

    def init(engine: Engine, bundle: Bundle, graphs: Graphs, *more: Any) -> None:
        found.append(graphs.own_attention)
        whole(engine, bundle, graphs, *more)

    whole = Engine.__init__
    monkeypatch.setattr(Engine, "__init__", init)
    return found


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """The same of each time that log-probabilities are computed."""
    found: list[bool] = []

    def logits(engine: Engine, *asked: Any, **named: Any) -> Any:
        found.append(engine._step.graphs.own_attention)
        return whole(engine, *asked, **named)

    whole = Engine.logits
    monkeypatch.setattr(Engine, "logits", logits)
    return found


def attends(bundle: Bundle, **options: Any) -> bool:
    """Whether the engine that serves a bundle has own attention."""
    with closing(Engine.open(bundle, threads=1, **options)) as engine:
        return engine._step.graphs.own_attention


def without_tolerance(bundle: Bundle) -> None:
    """onnxruntime's attention repeats its bits, and own attention has others."""
    write_json(bundle.golden_path, read_json(bundle.golden_path) | {"tolerance": 0.0})
    enter_golden(bundle)


def off_by(path: Path, difference: float, bundle: Bundle) -> None:
    """Changes a golden vector."""
    content = read_json(path)
    content["cases"][0]["logprobs"][0][0] += difference
    write_json(path, content)
    enter_golden(bundle)


def test_a_start_computes_what_was_recorded_once(
    unproved: Bundle, opened: list[bool], computed: list[bool]
) -> None:
    assert attends(unproved)
    assert opened == computed == [True]


def test_answers_off_by_more_than_the_tolerance_are_held_to_the_proved_graph(
    unproved: Bundle, opened: list[bool], computed: list[bool]
) -> None:
    """Rounding does that to them. The machine is compared by the proved graph; neither computes anything twice."""
    without_tolerance(unproved)
    assert attends(unproved)
    assert opened == computed == [True, False]


def test_answers_far_from_the_golden_ones_leave_attention_to_onnxruntime(
    unproved: Bundle,
    opened: list[bool],
    computed: list[bool],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    without_tolerance(unproved)
    monkeypatch.setattr(golden, "NEAR_KL", -1.0)
    with caplog.at_level(logging.WARNING):
        assert not attends(unproved)
    assert "off by a KL" in caplog.text
    assert opened == computed == [True, False]


def test_what_adapters_add_is_held_to_the_plain_graph_likewise(
    unproved: Bundle, opened: list[bool], computed: list[bool]
) -> None:
    """Golden vectors of an export without the package, and a server with it, whose adapters add up in another order."""
    write_json(unproved.golden_path, recorded(unproved, "off"))
    without_tolerance(unproved)
    opened.clear()
    computed.clear()
    with closing(Engine.open(unproved, threads=1, kernels="exact")) as engine:
        assert engine.form is not None
        assert engine.form.reordered == ("adapters",)
    assert opened == computed == [False, False]
    assert attends(unproved)


def test_a_machine_that_computes_otherwise_is_found_out_all_the_same(unproved: Bundle) -> None:
    off_by(unproved.golden_path, 0.01, unproved)
    with pytest.raises(ParityError, match="this machine computes otherwise"):
        attends(unproved)


def test_where_own_attention_was_proved_its_own_golden_vectors_are_all_that_is_replayed(
    proved: Bundle, opened: list[bool], computed: list[bool]
) -> None:
    """To the bit: the plain graph's would not repeat."""
    path = proved.golden_file(FP32, own=True)
    write_json(path, read_json(path) | {"tolerance": 0.0})
    without_tolerance(proved)
    assert attends(proved)
    assert opened == computed == [True]


def test_an_adapter_that_was_measured_without_own_attention_is_not_proved_by_others(
    proved: Bundle, computed: list[bool]
) -> None:
    """One that came in after them, as from a machine without the package."""
    enter_of_adapter(proved)
    without_tolerance(proved)
    assert attends(proved)
    assert computed == [True, False]


def test_a_machine_that_does_not_repeat_them_leaves_attention_to_onnxruntime(
    proved: Bundle, opened: list[bool], caplog: pytest.LogCaptureFixture
) -> None:
    off_by(proved.golden_file(FP32, own=True), 0.01, proved)
    with caplog.at_level(logging.WARNING):
        assert not attends(proved)
    assert f"{form(proved, 'own').name} is not used: this machine computes otherwise" in caplog.text
    assert opened == [True, False]


def test_golden_vectors_of_other_operators_are_no_proof(
    proved: Bundle, opened: list[bool], computed: list[bool]
) -> None:
    """Those of another interface of the package: the start is held to the plain graph's."""
    path = proved.golden_file(FP32, own=True)
    write_json(path, read_json(path) | {"form": "fp32: own attention and adapters of ptune-kernels 0"})
    without_tolerance(proved)
    assert attends(proved)
    assert opened == computed == [True, False]


def test_what_the_export_refused_is_not_used_unless_asked_for(
    unproved: Bundle, opened: list[bool], caplog: pytest.LogCaptureFixture
) -> None:
    own = form(unproved, "own")
    enter(unproved, [told(own, passed=False)])
    with caplog.at_level(logging.INFO):
        assert not attends(unproved)
    assert opened == [False]
    assert "own attention is beyond top-1 ≥ 0.95" in caplog.text
    assert attends(unproved, kernels="own")
    assert [found.choice for found in to_measure(unproved, FP32)] == ["exact"]


def test_an_adapter_decides_for_its_bundle_and_one_that_is_removed_no_longer_does(proved: Bundle) -> None:
    own, exact = form(proved, "own"), form(proved, "exact")
    enter_of_adapter(proved, told(own, passed=False), told(exact, passed=False))
    with closing(Engine.open(proved, threads=1)) as engine:
        assert engine.form is not None
        assert engine.form.choice == "off"
    assert not to_measure(proved, FP32)
    adapters = proved.manifest.adapters
    proved.write_manifest(proved.manifest.model_copy(update={"adapters": {}}))
    assert attends(proved)
    proved.write_manifest(proved.manifest.model_copy(update={"adapters": adapters}))


def test_an_adapter_that_missed_its_gate_is_not_taken_into_a_running_server(proved: Bundle) -> None:
    with closing(Engine.open(proved, threads=1)) as engine:
        enter_of_adapter(proved, told(form(proved, "own"), passed=False))
        with pytest.raises(AdapterError, match="missed its gate with own attention and adapters"):
            engine.load_adapter("four")


def test_own_attention_is_proved_where_all_that_was_measured_was_measured_with_it(proved: Bundle) -> None:
    own, exact = form(proved, "own"), form(proved, "exact")
    assert is_proved(proved, own)
    assert not is_proved(proved, exact)  # its golden vectors are the plain graph's
    enter_of_adapter(proved)
    assert not is_proved(proved, own)
    write_record(proved, proved.adapter("four").model_copy(update={"parity": "unmeasured"}))
    assert is_proved(proved, own)


def test_int4_has_own_attention_only_by_proof(unproved: Bundle) -> None:
    """Its gate holds with one order of sums and not with another."""
    write_int4(unproved.graph_path(FP32), unproved.folder / "graphs" / INT4 / "model.onnx")
    enter_graph(unproved, INT4)
    write_json(unproved.golden_file(INT4), {**recorded(unproved, "exact", INT4), "tolerance": 0.05})
    enter_golden(unproved)
    assert not attends(unproved, profile=INT4)
    own = form(unproved, "own", INT4)
    enter(unproved, [told(own, passed=True)])
    assert not attends(unproved, profile=INT4)
    content = {**recorded(unproved, "own", INT4), "form": own.name}
    write_json(unproved.golden_file(INT4, own=True), content)
    enter_golden(unproved)
    assert attends(unproved, profile=INT4)
