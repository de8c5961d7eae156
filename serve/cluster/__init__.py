"""`ptune serve --ray`: a bundle on several machines, by Ray Serve.

    client → Ray's HTTP proxy → Ingress → the Replica where adapter and prompt are warm → the app of `ptune serve`

Nothing here is imported, and Ray neither, unless it is asked for. A config file of Ray Serve names the application as
`ptune_serve.cluster:app`, with the fields of `Arguments` as its `args`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve import Application


def app(args: dict[str, Any]) -> Application:
    """The application of `serve run` and `serve deploy`. Raises: UsageError."""
    from .application import application
    from .arguments import Arguments

    return application(Arguments.read(args))
