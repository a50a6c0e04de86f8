from __future__ import annotations

import subprocess
import sys


def test_importing_text_loads_neither_tokenizers_nor_jinja():
    code = "import sys, preble.text; assert not {'tokenizers', 'jinja2'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
