"""Forms of a profile: own operators that add up in another order than the plain graph, and which of them a server uses.

A form's name says what is reordered, and by which interface of ptune-kernels; processors do not matter, as all give the same
bits. An export that has the package holds each form to the gate of its profile. The hops are entered beside the others
(`Hop.form`), and a form with one beyond its limit is refused: a server then tries the next. Of a form with own attention that
holds its gate the export leaves golden vectors, too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

from ptune.engine.kernels import INTERFACE, Kernels, kernels_for
from ptune.engine.options import KernelChoice
from ptune.errors import ParityError
from ptune.formats.bundle import FLOAT_CACHE, INT4, Bundle, CacheType, Hop
from ptune.formats.whole_write import read_json

TRIED: dict[KernelChoice, tuple[KernelChoice, ...]] = {
    "auto": ("own", "exact", "off"),
    "own": ("own",),
    "exact": ("exact", "off"),
    "off": ("off",),
}  # in this order; the last one is not refused

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Form:
    """A profile's graph with some own operators."""

    profile: str
    cache: CacheType
    choice: KernelChoice  # that always means these operators
    kernels: Kernels | None

    @classmethod
    def of(cls, bundle: Bundle, profile: str, cache: CacheType, choice: KernelChoice) -> Self:
        """The operators that there are on this machine. Raises: FormatError where the bundle has no such graph."""
        path = bundle.graph_path(profile, cache)
        return cls(
            profile,
            cache,
            choice,
            None if choice == "off" else kernels_for(path, exact=choice == "exact"),
        )

    @property
    def reordered(self) -> tuple[str, ...]:
        """What is computed in another order than the plain graph's; nothing where every bit is the same."""
        return () if self.kernels is None else self.kernels.reordered

    @property
    def other_bits(self) -> bool:
        """Whether its bits may differ from those of onnxruntime's operators on this machine."""
        return self.kernels is not None and (bool(self.reordered) or self.kernels.other_bits)

    @property
    def must_be_same(self) -> bool:
        """Whether answers that are only near the golden ones are too far: they come of products with other bits."""
        return not self.attends and self.kernels is not None and self.kernels.other_bits

    @property
    def attends(self) -> bool:
        """Whether attention is among that; or else the base's bits are those of the plain graph."""
        return "attention" in self.reordered

    @property
    def next(self) -> KernelChoice:
        """What is closer to the plain graph."""
        return "exact" if self.choice == "own" else "off"

    @property
    def title(self) -> str:
        """The operators in words."""
        return f"own {' and '.join(self.reordered or ('products',))}"

    @property
    def name(self) -> str:
        """What its hops and golden vectors are marked with; empty where nothing is reordered."""
        if not self.reordered:
            return ""
        cache = "" if self.cache == FLOAT_CACHE else f", {self.cache} cache"
        return f"{self.profile}{cache}: {self.title} of ptune-kernels {INTERFACE}"

    def marked(self, hop: Hop) -> Hop:
        """A hop that was measured with it."""
        note = hop.note or f"ptune-kernels {INTERFACE}: {' and '.join(self.reordered)}"
        name = f"{hop.name}, own {self.reordered[0]}"  # short, for the table
        return hop.model_copy(update={"name": name, "form": self.name, "note": note})


class FormError(ParityError):
    """A form's answers are further from the golden ones than they may be."""

    def __init__(self, form: Form, why: object) -> None:
        super().__init__(str(why))
        self.form = form


def chosen(bundle: Bundle, profile: str, cache: CacheType, choice: KernelChoice) -> Form:
    """The form that an engine computes. For int4, whose gate holds with one order of sums and not with another, own attention
    must have been proved. Raises: FormatError where the bundle has no such graph."""
    *unless_refused, last = TRIED[choice]
    for one in unless_refused:
        form = Form.of(bundle, profile, cache, one)
        why = refusal(bundle, form)
        if not why and profile == INT4 and form.attends and own_golden(bundle, form) is None:
            why = "the bundle's export did not prove it"
        if not why:
            return form
        _log.info("%s is not used: %s", form.name, why)
    return Form.of(bundle, profile, cache, last)


def to_measure(bundle: Bundle, profile: str, cache: CacheType = FLOAT_CACHE) -> list[Form]:
    """Forms that a server here would use: the first one, or the next where that is refused. Those refused before are left out."""
    own, exact = (Form.of(bundle, profile, cache, choice) for choice in TRIED["auto"][:2])
    forms = [own, exact] if own.attends else [exact]
    return [form for form in forms if form.name and not refusal(bundle, form)]


def refusal(bundle: Bundle, form: Form) -> str:
    """Which hop of a form is beyond its limit; empty where none is. Raises: FormatError for a damaged adapter."""
    hops = (hop for hops in _hops(bundle) for hop in hops) if form.name else ()
    return next((f"{hop.name} is beyond {hop.limit}" for hop in hops if refuses(hop, form)), "")


def refuses(hop: Hop, form: Form) -> bool:
    """Whether a hop is about a form, and beyond its limit."""
    return hop.form == form.name != "" and not hop.passed


def is_proved(bundle: Bundle, form: Form) -> bool:
    """Whether own attention holds its gate for the base and all adapters that were measured. Raises: as `refusal`."""

    def holds(hops: Iterable[Hop]) -> bool:
        own = [hop for hop in hops if hop.form == form.name]
        return bool(own) and not any(refuses(hop, form) for hop in own)

    return form.attends and all(map(holds, _hops(bundle)))


def own_golden(bundle: Bundle, form: Form) -> dict[str, Any] | None:
    """The golden vectors of a form; None where the bundle has none, or some adapter was not measured with it.

    Raises: FormatError where they are damaged; as `refusal`.
    """
    path = bundle.golden_file(form.profile, form.cache, own=True)
    there = path.relative_to(bundle.folder).as_posix() in bundle.manifest.golden
    if not (there and is_proved(bundle, form)):
        return None
    content = read_json(path)
    return content if content.get("form") == form.name else None


def _hops(bundle: Bundle) -> Iterable[tuple[Hop, ...]]:
    """The hops of the base, and of each adapter that was measured."""
    yield bundle.manifest.hops
    for name in bundle.manifest.adapters:
        record = bundle.adapter(name)
        if record.parity == "measured":
            yield record.hops
