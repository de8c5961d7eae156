"""The models of all bundles, by the names that requests use: `BUNDLE`, `BUNDLE:ADAPTER`, and `ADAPTER` where that is clear."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ptune.errors import FormatError, PtuneError, RequestError
from ptune.formats.adapter_sum import AdapterSum, parts_of
from ptune.formats.bundle import BASE, AdapterRecord, Bundle
from ptune.kinds import ENCODER

from ..access.keys import Key
from ..adapters.names import OF
from ..catalogue import Catalogue, ModelListing
from ..encoders.catalogue import EncoderCatalogue

if TYPE_CHECKING:
    from .bundles import Bundles
    from .folder import PlacedBundle


class Named(NamedTuple):
    """A model: its bundle, and its name there, which may be an alias."""

    bundle: str
    own: str


class UnloadedBundle:
    """What a catalogue needs of an engine, from a bundle's files."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._written_ns = _written_ns(bundle)
        self._records: dict[tuple[str, str | None], AdapterRecord] = {}  # by name and hash
        self.context = bundle.manifest.signature.context

    @property
    def bundle(self) -> Bundle:
        """The bundle as it is on disk now; as it was where it cannot be read."""
        if (written_ns := _written_ns(self._bundle)) != self._written_ns:
            with suppress(PtuneError):
                self._bundle = Bundle.open(self._bundle.folder)
            self._written_ns = written_ns
        return self._bundle

    @property
    def adapters(self) -> list[str]:
        return list(self.bundle.manifest.adapters)

    def record(self, name: str) -> AdapterRecord:
        """An adapter's record. Raises: RequestError(404) where it is damaged, or was removed from the disk."""
        bundle = self.bundle
        (name, _), *_ = parts_of(name, bundle.manifest.adapters) or (
            (name, 1.0),
        )  # a sum is described by its first part
        place = (name, bundle.manifest.adapters.get(name))
        if place in self._records:
            return self._records[place]
        try:
            self._records[place] = record = bundle.adapter(name)
            return record
        except FormatError as error:
            told = str(error).replace(str(bundle.folder), bundle.folder.name)
            raise RequestError(told, param="model", code="model_not_found", status=404) from None


def catalogue_of(place: PlacedBundle, *, require_parity: bool = False) -> ModelListing:
    """The models of a bundle that is not loaded."""
    engine: Any = UnloadedBundle(place.bundle)
    kind = EncoderCatalogue if place.kind is ENCODER else Catalogue
    return kind(engine, require_parity=require_parity)


def _written_ns(bundle: Bundle) -> int:
    """When its manifest was written; 0 if it is not there."""
    try:
        return (bundle.folder / "manifest.json").stat().st_mtime_ns
    except OSError:
        return 0


def _answers(listing: ModelListing, own: str) -> bool:
    """Whether a bundle has this model, or all parts of this sum."""
    known = {*listing.names(), *listing.aliases()}
    found = AdapterSum.parsed(own)
    return own in known or (found is not None and {*found.names} <= known)


class BundleNames:
    """All models. `ModelListing`, whose names are `BUNDLE` for a base and `BUNDLE:ADAPTER`.

    unloaded: the catalogue of each bundle as it is on disk, which counts while the bundle is not loaded.
    """

    def __init__(self, bundles: Bundles, unloaded: Mapping[str, ModelListing]) -> None:
        self._bundles = bundles
        self.unloaded = dict(unloaded)

    def of(self, bundle: str) -> ModelListing:
        """The models of one bundle, as it is now."""
        loaded = self._bundles.loaded(bundle)
        return self.unloaded[bundle] if loaded is None else loaded.service.catalogue

    def names(self) -> list[str]:
        return [self._whole(bundle, name) for bundle in self.unloaded for name in self.of(bundle).names()]

    def aliases(self) -> list[str]:
        return [self._whole(bundle, name) for bundle in self.unloaded for name in self.of(bundle).aliases()]

    def own_name(self, model: str) -> str:
        """The whole name of a model; `model` as it is if there is none, or several could be meant."""
        try:
            return self._whole(*self.find(model))
        except RequestError:
            return model

    def parts(self, model: str) -> list[str]:
        try:
            bundle, own = self.find(model)
        except RequestError:
            return [model]
        return [self._whole(bundle, part) for part in self.of(bundle).parts(own)]

    def resolve(self, model: str) -> str:
        bundle, own = self.find(model)
        return self._whole(bundle, self.of(bundle).resolve(own))

    def card(self, name: str) -> dict[str, Any]:
        """A card as the bundle has it, under the whole name; `loaded` says whether the bundle is."""
        bundle, own = self.find(name)
        listing = self.of(bundle)
        card = listing.card(listing.resolve(own))
        parent = None if card["parent"] is None else self._whole(bundle, card["parent"])
        loaded = self._bundles.loaded(bundle) is not None
        return {
            **card,
            "id": self._whole(bundle, card["id"]),
            "root": bundle,
            "parent": parent,
            "loaded": loaded,
        }

    def find(self, model: str) -> Named:
        """The model that a request asks for. Raises: RequestError(404) if there is none, or several could be meant."""
        bundle, colon, _ = model.partition(OF)
        if bundle in self.unloaded:
            listing = self.of(bundle)
            own = listing.own_name(model)
            if _answers(listing, own):
                return Named(bundle, own)
        found = [] if colon else list(self._called(model))
        if len(found) == 1:
            return found[0]
        if found:
            meant = " or ".join(self._whole(*one) for one in found)
            reason = f": say {meant}"
        elif bundle in self.unloaded and not colon:
            reason = f": bundle {bundle!r} has several models; say {', '.join(self._of_bundle(bundle))}"
        else:
            reason = f"; served: {', '.join(self.names()) or 'none'}"
        message = f"no model {model[:80]!r} here{reason}"
        raise RequestError(message, param="model", code="model_not_found", status=404)

    def for_key(self, key: Key) -> Key:
        """A key, with whole names for the models that it may use."""
        return self._narrowed(key, lambda named: self._whole(*named))

    def for_key_in(self, bundle: str, key: Key) -> Key:
        """A key, with one bundle's own names for the models there that it may use."""
        return self._narrowed(key, lambda named: named.own if named.bundle == bundle else None)

    def _narrowed(self, key: Key, written: Any) -> Key:
        if key.adapters is None:
            return key
        found = (written(named) for model in key.adapters for named in self._meant(model))
        return replace(key, adapters=frozenset(name for name in found if name is not None))

    def _meant(self, model: str) -> Iterator[Named]:
        try:
            yield self.find(model)
        except RequestError:  # a name that is not served, or could mean several: it opens nothing
            return

    def _called(self, model: str) -> Iterator[Named]:
        for bundle in self.unloaded:
            listing = self.of(bundle)
            if _answers(listing, model):
                yield Named(bundle, model)

    def _of_bundle(self, bundle: str) -> list[str]:
        return [self._whole(bundle, name) for name in self.of(bundle).names()]

    def _whole(self, bundle: str, own: str) -> str:
        """`BUNDLE` for the base, unless an adapter there has the bundle's name."""
        return bundle if own == BASE and bundle not in self.of(bundle).names() else f"{bundle}{OF}{own}"
