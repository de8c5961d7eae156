"""A proof: the figures of every hop of a bundle, for its base and each adapter."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ptune.formats.bundle import BASE, Hop


@dataclass(frozen=True)
class Proof:
    """The hops of a bundle's base, and of each adapter.

    refused: requested profiles that are not in the bundle, with the reasons.
    """

    base: tuple[Hop, ...] = ()
    adapters: Mapping[str, tuple[Hop, ...]] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, hops: Mapping[str, Sequence[Hop]]) -> Proof:
        """Makes a proof of hops by name, the base's under `base`."""
        adapters = {name: tuple(measured) for name, measured in hops.items() if name != BASE}
        return cls(tuple(hops.get(BASE, ())), adapters)

    @property
    def hops(self) -> list[Hop]:
        """All hops, the base's first."""
        return [*self.base, *(hop for hops in self.adapters.values() for hop in hops)]

    def after(self, before: Mapping[str, Sequence[Hop]]) -> Proof:
        """This proof, preceded by hops that were measured earlier."""
        adapters = {name: (*before.get(name, ()), *hops) for name, hops in self.adapters.items()}
        return replace(self, base=(*before.get(BASE, ()), *self.base), adapters=adapters)

    def then(self, more: Proof) -> Proof:
        """This proof, followed by another of the same bundle."""
        names = [*self.adapters, *(name for name in more.adapters if name not in self.adapters)]
        both = {name: (*self.adapters.get(name, ()), *more.adapters.get(name, ())) for name in names}
        return Proof((*self.base, *more.base), both, {**self.refused, **more.refused})

    @property
    def drifted(self) -> list[Hop]:
        """Hops beyond their limit, without those of own operators, which are then not used."""
        return [hop for hop in self.hops if not (hop.passed or hop.form)]

    @property
    def refuses_own(self) -> bool:
        """Whether some of these are beyond their limit."""
        return any(hop.form and not hop.passed for hop in self.hops)

    @property
    def passed(self) -> bool:
        """Whether none has drifted."""
        return not self.drifted

    def binding(self, forms: Collection[str]) -> Proof:
        """This proof, in which the hops of these own operators count as all others do."""

        def bound(hops: Sequence[Hop]) -> tuple[Hop, ...]:
            return tuple(hop.model_copy(update={"form": ""}) if hop.form in forms else hop for hop in hops)

        return replace(
            self,
            base=bound(self.base),
            adapters={name: bound(hops) for name, hops in self.adapters.items()},
        )
