"""How a Python process of our own is started beside this one."""

from __future__ import annotations

import sys


def module_command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module by the Python that runs this.

    `-P` keeps the working folder off the module path: a folder there that is called ptune, such as a checkout's parent has,
    would be imported in place of the package.
    """
    return [sys.executable, "-P", "-m", module, *arguments]
