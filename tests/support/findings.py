"""What the tests of the doctor read from its findings."""

from __future__ import annotations

from ptune.doctor.finding import Finding, Place


def place_of(finding: Finding) -> Place:
    """Where a finding that has a place was found."""
    assert finding.place is not None, finding
    return finding.place
