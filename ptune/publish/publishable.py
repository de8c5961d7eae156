"""What the pipeline asks of a model on its way into a bundle, whatever its kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from ptune.config.recipe import Backbone, Recipe
from ptune.errors import UsageError
from ptune.evaluation.require import refuse_failed
from ptune.formats.bundle import Bundle, Hop
from ptune.formats.run import Run, RunRecord
from ptune.verify.proof import Proof


@dataclass(frozen=True)
class FinishedRun:
    """A run that has ended as it should, with its record and its recipe read once."""

    files: Run
    record: RunRecord
    recipe: Recipe

    @classmethod
    def open(cls, run: Run) -> FinishedRun:
        """Raises: UsageError where it has not ended yet; PtuneError where its evaluation missed what was required."""
        record = run.record()
        if record.status not in ("finished", "stopped early"):
            raise UsageError(
                f"{run.folder} is {record.status}: go on with the command of run.json and --resume"
            )
        refuse_failed(run)
        return cls(run, record, Recipe.load(run.recipe_path))

    def backbone(self) -> Backbone:
        """Where the trained weights are, in the type of the base: the base's own place, or where the run saved them."""
        backbone = self.recipe.backbone
        if not self.files.has_adapter:
            backbone = backbone.saved_at(self.files.model_path)
        return backbone.model_copy(update={"dtype": self.record.base.dtype})


@dataclass(frozen=True)
class Merge:
    """How an adapter was merged into its base."""

    hop: Hop  # the live adapter against the saved weights
    update_error: float | None = None  # relative L2 of the update's weights; None where nothing was rounded


class Publishable(Protocol):
    """A model with what torch says of it, the held-out inputs at which hops are compared, and adapters to put beside it.

    It is opened from a finished run, from a pretrained model (decoders and encoder-decoders), or from a bundle whose base
    is read again. Opened from a bundle it loads its reference no sooner than it needs it.
    """

    profiles: ClassVar[tuple[str, ...]]  # that it may have beside fp32: the one that rounds most first
    auto_profiles: ClassVar[tuple[str, ...]]  # among which `auto` looks for the fastest

    adapters: Mapping[str, Path | None]
    """PEFT folders by the name they are served under; None where the model itself holds what was trained."""
    earlier_hops: Mapping[str, Sequence[Hop]]
    """Hops that were measured before: when it was trained, or merged."""

    @classmethod
    def of_run(cls, run: FinishedRun, name: str, *, merge: bool, profiles: Sequence[str]) -> Self:
        """Opens what a run trained. Raises: UsageError for what this kind cannot do; BackboneError for another base."""
        ...

    @classmethod
    def of_bundle(cls, bundle: Bundle, backbone: Backbone) -> Self:
        """Opens the model that a bundle was made of. Raises, when the reference is read: BackboneError for another."""
        ...

    @classmethod
    def merge(cls, run: FinishedRun, out: Path, dtype: str, limit: float) -> Merge:
        """Saves a run's model with its adapter merged. Raises: UsageError; ParityError, and saves nothing, beyond `limit`."""
        ...

    def write_graphs(self, folder: Path) -> Bundle:
        """Traces the reference and writes a bundle of it, without adapters, into an empty folder. Raises: BackboneError."""
        ...

    def save_held_out(self, bundle: Bundle) -> None:
        """Writes the held-out inputs into the bundle, so that it can be verified anywhere."""
        ...

    def install(self, bundle: Bundle, adapter: Path | None, name: str, *, proved: bool = True) -> None:
        """Puts an adapter into the bundle, checked socket by socket, as yet unmeasured.

        proved: whether its proof comes next; if not, the base may stay unread. Raises: UsageError, AdapterError.
        """
        ...

    def golden(self, bundle: Bundle, profile: str, threads: int) -> dict[str, Any]:
        """What this machine's engine answers to a few held-out inputs, as golden/*.json holds it."""
        ...

    def prove(self, bundle: Bundle, adapters: Sequence[str], threads: int) -> Proof:
        """Measures every hop of the fp32 graph, of the base and of adapters in the bundle."""
        ...

    def save_held_out_for_profiles(self, bundle: Bundle) -> Path:
        """Writes the file in the bundle that holds what its profiles are compared at. Returns its path."""
        ...

    def write_profile(self, bundle: Bundle, profile: str, threads: int) -> None:
        """Writes a profile's graph beside the fp32 one, and enters it into the manifest."""
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
        """Compares a profile with fp32. base: the bare base, too; to_the_end: the rest, too, after a hop that drifts."""
        ...

    def default_profile(self, bundle: Bundle, profiles: Sequence[str], threads: int) -> str:
        """The profile to serve unless another is asked for."""
        ...
