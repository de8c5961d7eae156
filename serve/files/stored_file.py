"""One stored file, as it is described on disk and to clients."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

DAY_S = 24 * 60 * 60
KEPT_S = 30 * DAY_S
"""How long a file is kept unless the request says otherwise, as at OpenAI."""

Purpose = Literal["batch", "batch_output"]


class StoredFile(BaseModel):
    """What is known of a file besides its content."""

    model_config = ConfigDict(frozen=True)

    id: str
    key: str  # the name of the API key that it belongs to
    filename: str
    purpose: Purpose
    bytes: int
    created_s: float
    expires_s: float

    def card(self) -> dict[str, Any]:
        """OpenAI's `file` object."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.bytes,
            "created_at": int(self.created_s),
            "expires_at": int(self.expires_s),
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
            "status_details": None,
        }
