"""Builds the C extensions where there is a compiler; without one the package is the same, only slower."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCES = ("preble/_pack.c", "preble/core/policies/e2/_price.c", "preble/tree/_walk.c")


class NativeBuild(BuildHookInterface):  # type: ignore[type-arg]
    """Compiles the extensions into the source tree, and puts them into the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile; a failure is told and leaves a wheel for every platform."""
        from setuptools import Distribution, Extension

        modules = {source.removesuffix(".c").replace("/", "."): source for source in SOURCES}
        # Products and sums rounded one by one, as numpy does, so that all machines decide alike.
        plain = [] if sys.platform == "win32" else ["-ffp-contract=off"]
        extensions = [
            Extension(name, [source], optional=True, extra_compile_args=plain) for name, source in modules.items()
        ]
        distribution = Distribution({"name": "preble", "packages": ["preble"], "ext_modules": extensions})
        command = distribution.get_command_obj("build_ext")
        files = [Path(self.root, command.get_ext_filename(name)) for name in modules]
        for file in files:
            file.unlink(missing_ok=True)  # an old one must not pass for what this compiler made
        with tempfile.TemporaryDirectory() as scratch:
            command.inplace, command.build_temp, command.build_lib = True, scratch, scratch
            distribution.run_command("build_ext")
        built = [str(file.relative_to(self.root)) for file in files if file.exists()]
        if built:
            build_data["pure_python"], build_data["infer_tag"] = False, True
            build_data["artifacts"].extend(built)
