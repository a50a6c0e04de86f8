"""The site's pages of the API name all that is public, and what is written for machines leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import preble
import preble.simulate
import preble.testing

ROOT = Path(__file__).parent.parent
SHOWN = {
    name
    for page in (ROOT / "docs" / "api").glob("*.md")
    for name in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)
}


def test_every_public_name_has_its_place_in_the_reference():
    public = {f"preble.{name}" for name in preble.__all__ if name != "__version__"}
    simulate = {f"preble.simulate.{name}" for name in preble.simulate.__all__}
    testing = {f"preble.testing.{name}" for name in preble.testing.__all__ if name != "main"}
    assert (public | simulate | testing | {"preble.serve.create_app"}) - SHOWN == set()


def test_llms_txt_leads_to_pages_that_are_there():
    links = re.findall(r"\]\(([^)]+)\)", (ROOT / "llms.txt").read_text())
    assert len(links) > 5
    assert [link for link in links if not (ROOT / link).is_file()] == []


def test_workflows_run_targets_of_the_makefile_only():
    workflows = [path.read_text() for path in (ROOT / ".github" / "workflows").glob("*.yml")]
    commands = {command for text in workflows for command in re.findall(r"run: (.*)", text)}
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert commands == {f"make {target}" for target in ("lint", "test", "docs", "test-engines")}
    assert {command.removeprefix("make ") for command in commands} <= targets
