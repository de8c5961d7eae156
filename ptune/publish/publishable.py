"""The protocol of a model that the publishing pipeline can export, whatever its kind."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from ptune.config.recipe import Backbone, Recipe
from ptune.errors import UsageError
from ptune.evaluation.require import refuse_failed
from ptune.formats.bundle import FLOAT_CACHE, Bundle, CacheType, Hop
from ptune.formats.run import Run, RunRecord
from ptune.verify.proof import Proof


@dataclass(frozen=True)
class FinishedRun:
    """A successfully finished run, with its record and recipe."""

    files: Run
    record: RunRecord
    recipe: Recipe

    @classmethod
    def open(cls, run: Run) -> FinishedRun:
        """Opens a run. Raises: UsageError if it has not finished; PtuneError if its evaluation missed a requirement."""
        record = run.record()
        if record.status not in ("finished", "stopped early"):
            raise UsageError(
                f"{run.folder} is {record.status}: go on with the command of run.json and --resume"
            )
        refuse_failed(run)
        return cls(run, record, Recipe.load(run.recipe_path))

    def backbone(self) -> Backbone:
        """The backbone to load, in the base's dtype: the base itself, or the weights that the run saved."""
        backbone = self.recipe.backbone
        if not self.files.has_adapter:
            backbone = backbone.saved_at(self.files.model_path)
        return backbone.model_copy(update={"dtype": self.record.base.dtype})


@dataclass(frozen=True)
class Merge:
    """The result of merging an adapter into its base."""

    hop: Hop  # the live adapter against the saved weights
    update_error: float | None = None  # relative L2 of the update's weights; None if nothing was rounded


class Publishable(Protocol):
    """A model with its torch reference, held-out inputs to compare hops on, and adapters to install.

    It is opened from a finished run, from a pretrained model (decoders and encoder-decoders), or from a bundle. Opened from
    a bundle, it loads the reference from the base only when needed.
    """

    profiles: ClassVar[tuple[str, ...]]  # possible profiles beside fp32, the one that rounds most first
    auto_profiles: ClassVar[tuple[str, ...]]  # candidates of `auto`

    caches: ClassVar[tuple[CacheType, ...]] = ()  # possible types of keys and values beside float32

    adapters: Mapping[str, Path | None]
    """PEFT folders by the name they are served under; None if the model itself holds the trained weights."""
    earlier_hops: Mapping[str, Sequence[Hop]]
    """Hops that were measured earlier, in training or merging."""

    @classmethod
    def of_run(cls, run: FinishedRun, name: str, *, merge: bool, profiles: Sequence[str]) -> Self:
        """Opens a run's model. Raises: UsageError for options that this kind lacks; BackboneError if the base has changed."""
        ...

    @classmethod
    def of_bundle(cls, bundle: Bundle, backbone: Backbone) -> Self:
        """Opens a bundle's model. Reading the reference raises BackboneError if it is another one."""
        ...

    @classmethod
    def merge(cls, run: FinishedRun, out: Path, dtype: str, limit: float) -> Merge:
        """Saves a run's model with its adapter merged. Raises: UsageError; ParityError, and saves nothing, beyond `limit`."""
        ...

    def write_graphs(self, folder: Path, profiles: Sequence[str]) -> Bundle:
        """Traces the reference and writes a bundle without adapters into an empty folder.

        profiles: those that are asked for. The bundle has the one that others are made of. Raises: BackboneError.
        """
        ...

    def save_held_out(self, bundle: Bundle) -> None:
        """Writes the held-out inputs into the bundle, so that it can be verified anywhere."""
        ...

    def install(
        self,
        bundle: Bundle,
        adapter: Path | None,
        name: str,
        *,
        proved: bool = True,
        rank: int | None = None,
    ) -> None:
        """Puts an adapter into the bundle, checked socket by socket, still unmeasured.

        proved: whether its proof follows; if not, the base may stay unread. rank: that an adapter of another type than LoRA is
        cut to. Raises: UsageError, AdapterError.
        """
        ...

    def golden(
        self, bundle: Bundle, profile: str, threads: int, cache: CacheType = FLOAT_CACHE
    ) -> dict[str, Any]:
        """Outputs of this machine's engine for a few held-out inputs, in the format of golden/*.json.

        cache: type of keys and values, one of `caches` or float32.
        """
        ...

    def own_golden(
        self, bundle: Bundle, profile: str, threads: int, cache: CacheType = FLOAT_CACHE
    ) -> dict[str, Any] | None:
        """The same with own attention; None if the recorded proof does not cover it, or this machine has none."""
        return None

    def served_forms(self, bundle: Bundle) -> Collection[str]:
        """The own operators that a server here uses by default, as `Hop.form` names them."""
        return ()

    def prove(self, bundle: Bundle, adapters: Sequence[str], threads: int) -> Proof:
        """Measures every hop of the fp32 graph, for the base and the given adapters."""
        ...

    def save_held_out_for_profiles(self, bundle: Bundle) -> Path:
        """Writes the file of inputs on which the bundle's profiles are compared. Returns its path."""
        ...

    def write_profile(self, bundle: Bundle, profile: str, threads: int) -> None:
        """Writes a profile's graph beside fp32, and enters it into the manifest."""
        ...

    def prove_profile(
        self,
        bundle: Bundle,
        profile: str,
        adapters: Sequence[str],
        threads: int,
        *,
        base: bool,
        to_the_end: bool,
    ) -> Proof:
        """Compares a profile with fp32. base: also the bare base; to_the_end: continues after a hop beyond its limit."""
        ...

    def write_caches(self, bundle: Bundle, threads: int) -> None:
        """Writes graphs with an int8 cache beside each profile's, and enters them; for kinds that have such `caches`."""

    def prove_cache(
        self, bundle: Bundle, profile: str, adapters: Sequence[str], threads: int, *, base: bool
    ) -> Proof:
        """Compares a profile's int8 cache with its float32 cache. base: also the bare base."""
        return Proof()

    def default_profile(self, bundle: Bundle, profiles: Sequence[str], threads: int) -> str:
        """The profile to serve by default."""
        ...
