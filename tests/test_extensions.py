"""The extensions in C are there wherever a compiler is; without one, other tests would not see them."""

from __future__ import annotations

import importlib
import shutil
import sysconfig
from pathlib import Path

import pytest


@pytest.mark.parametrize("name", ["preble._pack", "preble.core.policies.e2._price", "preble.tree._walk"])
def test_the_extension_is_built_where_it_can_be(name: str):
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) and Path(sysconfig.get_path("include"), "Python.h").exists():
        importlib.import_module(name)
