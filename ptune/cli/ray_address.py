"""The option --ray [ADDRESS] of commands whose work can be shared by machines."""

from __future__ import annotations

from typing import Annotated, Any

from tyro.constructors import PrimitiveConstructorSpec

_ADDRESS: PrimitiveConstructorSpec[Any] = PrimitiveConstructorSpec(
    nargs=(0, 1),
    metavar="[ADDRESS]",
    instance_from_str=lambda words: words[0] if words else "local",
    is_instance=lambda value: value is None or isinstance(value, str),
    str_from_instance=lambda value: [value or "off"],
)
RayAddress = Annotated[str | None, _ADDRESS]
"""Type of the option: bare it means a cluster on this machine, "local"."""
