"""Builds `preble._pack` where there is a compiler; without one the package is the same, only slower to take lists."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class NativeBuild(BuildHookInterface):  # type: ignore[type-arg]
    """Compiles the extension into the source tree, and puts it into the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile; a failure is told and leaves a wheel for every platform."""
        from setuptools import Distribution, Extension

        extension = Extension("preble._pack", ["preble/_pack.c"], optional=True)
        distribution = Distribution({"name": "preble", "packages": ["preble"], "ext_modules": [extension]})
        command = distribution.get_command_obj("build_ext")
        built = Path(self.root, command.get_ext_filename("preble._pack"))
        built.unlink(missing_ok=True)  # an old one must not pass for what this compiler made
        with tempfile.TemporaryDirectory() as scratch:
            command.inplace, command.build_temp, command.build_lib = True, scratch, scratch
            distribution.run_command("build_ext")
        if built.exists():
            build_data["pure_python"], build_data["infer_tag"] = False, True
            build_data["artifacts"].append(str(built.relative_to(self.root)))
