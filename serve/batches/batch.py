"""One batch: where it stands, as it is kept on disk and shown to clients."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from ..files.stored_file import KEPT_S

Status = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]
ENDED = ("failed", "completed", "expired", "cancelled")


class BatchError(BaseModel):
    """Why a batch failed, or cannot go on for now."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class BatchUsage(BaseModel):
    """Tokens of all answers."""

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0

    def add(self, usage: dict[str, Any]) -> None:
        """Adds the `usage` of one answer, in the words of either of OpenAI's APIs."""
        self.input_tokens += usage.get("prompt_tokens", usage.get("input_tokens", 0))
        self.output_tokens += usage.get("completion_tokens", usage.get("output_tokens", 0))
        read = usage.get("prompt_tokens_details", usage.get("input_tokens_details")) or {}
        self.cached_tokens += read.get("cached_tokens", 0)
        details = usage.get("completion_tokens_details", usage.get("output_tokens_details")) or {}
        self.reasoning_tokens += details.get("reasoning_tokens", 0)

    def card(self) -> dict[str, Any]:
        return {
            "input_tokens": self.input_tokens,
            "input_tokens_details": {"cached_tokens": self.cached_tokens},
            "output_tokens": self.output_tokens,
            "output_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
            "total_tokens": self.input_tokens + self.output_tokens,
        }


class Batch(BaseModel):
    """The state of a batch. results_id, failures_id: of the files that its answers are written to while it runs."""

    id: str
    key: str  # the name of the API key that it belongs to, and works with
    endpoint: str
    input_file_id: str
    completion_window: str
    created_s: float
    expires_s: float
    results_id: str
    failures_id: str
    outputs_kept_s: float = KEPT_S
    metadata: dict[str, str] | None = None
    status: Status = "validating"
    model: str | None = None
    reached_s: dict[Status, float] = {}  # when each status began
    errors: list[BatchError] = []
    output_file_id: str | None = None
    error_file_id: str | None = None
    total: int = 0
    completed: int = 0
    failed: int = 0
    usage: BatchUsage = BatchUsage()

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    @property
    def done(self) -> int:
        """Requests that are answered, well or not."""
        return self.completed + self.failed

    def card(self) -> dict[str, Any]:
        """OpenAI's `batch` object."""
        times = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "model": self.model,
            "errors": self._errors(),
            "input_file_id": self.input_file_id,
            "completion_window": self.completion_window,
            "status": self.status,
            "output_file_id": self.output_file_id,
            "error_file_id": self.error_file_id,
            "created_at": int(self.created_s),
            "expires_at": int(self.expires_s),
            **{f"{name}_at": self._reached(name) for name in times},
            "request_counts": {"total": self.total, "completed": self.completed, "failed": self.failed},
            "usage": self.usage.card(),
            "metadata": self.metadata,
        }

    def _reached(self, status: Any) -> int | None:
        return None if status not in self.reached_s else int(self.reached_s[status])

    def _errors(self) -> dict[str, Any] | None:
        if not self.errors:
            return None
        return {"object": "list", "data": [error.model_dump() for error in self.errors]}
