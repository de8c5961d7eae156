"""ptune push PLACE OWNER/NAME"""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from ptune.cli.parse import parse
from ptune.cli.result import tell
from ptune.formats.parity_json import FILE as PARITY


def run(arguments: list[str]) -> int:
    return parse(push, arguments, "push")


def push(
    place: Positional[Path],
    repository: Positional[str],
    public: bool = False,
    endpoint: str | None = None,
    message: str = "",
    dry_run: bool = False,
) -> int:
    """Uploads a run's adapter, a bundle or another export to a model hub, with its card and parity.json, in one commit.

    Files that have a hash are held against it first. The token is what `hf auth login` or HF_TOKEN says.

    Args:
        place: A run's folder, a bundle's, or what `ptune export RUN --gguf` or `--genai` wrote.
        repository: OWNER/NAME; made where there is none, as a private one.
        public: Make a new repository public.
        endpoint: Another hub's address; default: huggingface.co, or HF_ENDPOINT.
        message: The commit's message.
        dry_run: Say what would go up, and upload nothing.
    """
    from ptune.publish import push as pushing

    upload = pushing.collected(place)
    for name, size in upload.sizes().items():
        print(f"{size:>14,}  {name}")
    tell(files=upload.sizes(), repository=repository)
    if any(
        name == PARITY or name.endswith(f"/{PARITY}") or name.startswith("golden/") for name in upload.files
    ):
        print(f"{PARITY} and golden/ hold prompts of held-out data: look at them before others do")
    if dry_run:
        print(f"nothing was uploaded to {repository}: --dry-run")
        return 0
    address = pushing.push(
        upload, repository, public=public, endpoint=endpoint, message=message or f"ptune push {place.name}"
    )
    tell(commit=address)
    print(f"pushed: {address}")
    return 0
