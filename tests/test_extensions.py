"""The extensions in C are there wherever a compiler is; without one, other tests would not see them."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import preble

PARTS = ["preble._pack", "preble.core.policies.e2._price", "preble.tree._walk"]
WITHOUT = """
import sys
sys.modules.update(dict.fromkeys({parts}))
import preble
from preble import tokens
from preble.core.policies.e2 import price
from preble.tree import walk
print(preble.native(), tokens.pack_integers([1]), price._price, walk.walk is walk.walk_in_python)
"""


@pytest.mark.parametrize("name", PARTS)
def test_the_extension_is_built_where_it_can_be(name: str):
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) and Path(sysconfig.get_path("include"), "Python.h").exists():
        importlib.import_module(name)
        assert preble.native()[name]


def test_native_says_which_parts_are_in_use():
    assert [*preble.native()] == PARTS
    code = WITHOUT.format(parts=PARTS)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{dict.fromkeys(PARTS, False)} None None True"
