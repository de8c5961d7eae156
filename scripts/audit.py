"""Known vulnerabilities of the installed packages, by pip-audit. Part of scripts/check.

Whether an advisory exists depends on the day and on the network, not on this code. So findings are shown and change the
exit code only with PTUNE_AUDIT=strict, for a job that looks at nothing else; and where no audit data can be reached, as
on a machine that is offline after installation, that is said and nothing more is tried.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request

KNOWN = "https://pypi.org/pypi/jinja2/3.1.2/json"  # a version that has advisories: where they are missing, so is the data
PROBE_S = 3
LIMIT_S = 60


def reachable() -> bool:
    """Whether audit data can be had: one small question, before one for every package."""
    try:
        with urllib.request.urlopen(KNOWN, timeout=PROBE_S) as answer:
            return bool(json.load(answer).get("vulnerabilities"))
    except (OSError, ValueError):
        return False


def main() -> int:
    """Prints what was found; exit code 1 only where PTUNE_AUDIT=strict, for findings and for data that cannot be had."""
    strict = os.environ.get("PTUNE_AUDIT") == "strict"
    if not reachable():
        print("pip-audit: no audit data can be reached: not audited")
        return int(strict)
    command = [
        sys.executable,
        "-m",
        "pip_audit",
        "--skip-editable",
        "--progress-spinner",
        "off",
        "--timeout",
        "5",
    ]
    try:
        found = subprocess.run(command, timeout=LIMIT_S, capture_output=True, text=True)
    except subprocess.TimeoutExpired:
        print(f"pip-audit: not done within {LIMIT_S} s: not audited")
        return int(strict)
    print(found.stdout + found.stderr, end="")
    return int(strict and found.returncode != 0)


if __name__ == "__main__":
    sys.exit(main())
