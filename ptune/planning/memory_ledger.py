"""The memory that a training needs, by part, in bytes. Torch-free."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich.table import Table

GB = 10**9


@dataclass(frozen=True)
class Ledger:
    """Bytes of each part at the peak of a training step.

    A validation pass counts as part of a step. Loading and saving have their own peaks; the peak of the process is the
    largest of the three.
    """

    device: Literal["cpu", "cuda"]
    weights: int  # packed bytes of quantised layers included
    quantisation_state: int  # scales, code books, offsets
    adapter: int
    gradients: int
    optimiser: int
    activations: int  # kept for the backward pass, and temporaries of operators
    loss_workspace: int
    allocator_slack: int  # held by the allocator but not in use
    runtime: int  # code and objects created while training
    loading: int  # peak until the first step: while the model is loaded and quantised, or an adapter begins with a gradient
    saving: int  # peak while the result is saved and read back
    baseline: int  # held before the model is loaded: all imports on the CPU, the CUDA context on a GPU
    main_memory: int  # of a training on a GPU: what loading and quantising adds in main memory; else 0
    evaluation: int  # peak of a pass without gradients, on the validation's examples
    tokens: int  # tokens of the largest row
    teacher: int = 0  # of an on-policy distillation: the model that judges, held beside the student
    away: int = 0  # of the base: what lies in a file and is read as it runs (`backbone.stream`)
    offloaded: int = (
        0  # of main memory: inputs of layers that a GPU leaves there (`train.activation_offloading`)
    )

    @property
    def step_bytes(self) -> int:
        """The peak of a training step."""
        return sum(amount for _, amount in self.rows())

    @property
    def peak_bytes(self) -> int:
        """The most that training adds to the process: VmHWM beyond the imports, or CUDA's max_memory_allocated."""
        return max(self.step_bytes, self.loading, self.saving)

    @property
    def needed_bytes(self) -> int:
        """Bytes that the machine or the card must have free."""
        return self.peak_bytes + self.baseline

    @property
    def decides(self) -> Literal["a step", "loading", "saving"]:
        """The phase with the highest peak."""
        if self.step_bytes == self.peak_bytes:
            return "a step"
        return "loading" if self.loading == self.peak_bytes else "saving"

    def rows(self) -> list[tuple[str, int]]:
        """The parts of a step, by name."""
        names = (
            "weights", "quantisation_state", "adapter", "gradients", "optimiser", "activations", "loss_workspace",
            "allocator_slack", "runtime",
        )  # fmt: skip
        parts = [(name.replace("_", " "), getattr(self, name)) for name in names]
        return [*parts, ("teacher", self.teacher)] if self.teacher else parts

    def document(self) -> dict[str, Any]:
        """The ledger in JSON types."""
        return {
            **asdict(self),
            "step_bytes": self.step_bytes,
            "peak_bytes": self.peak_bytes,
            "needed_bytes": self.needed_bytes,
        }

    def table(self) -> Table:
        """The ledger as a table for the terminal."""
        table = Table(title=f"memory of a step, largest row {self.tokens} tokens", title_justify="left")
        table.add_column("part")
        table.add_column("MB", justify="right")
        for name, amount in self.rows():
            table.add_row(name, megabytes(amount))
        table.add_section()
        table.add_row("peak of a step", megabytes(self.step_bytes))
        table.add_row("peak of loading", megabytes(self.loading))
        table.add_row("peak of saving", megabytes(self.saving))
        before = "imports" if self.device == "cpu" else "CUDA context"
        table.add_row(f"held before ({before})", megabytes(self.baseline))
        table.add_section()
        table.add_row(f"needed (decided by {self.decides})", megabytes(self.needed_bytes))
        if self.offloaded:
            table.add_row("in main memory: inputs of layers", megabytes(self.offloaded))
        return table


def megabytes(amount: int) -> str:
    return f"{amount / 10**6:,.1f}"


def gigabytes(amount: int) -> str:
    return f"{amount / GB:.1f} GB"
