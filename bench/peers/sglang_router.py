"""SGLang's public router (package sglang-router): whether its prefix tree can be called without its HTTP server.

Run by the Python of its own environment. The wheel is a compiled server; what it offers to Python is looked up, and a
tree is measured only if there is one.
"""

from __future__ import annotations

import json
import sys


def main():
    """Answer each question with an error that says what the package offers."""
    import sglang_router.sglang_router_rs as native

    names = [name for name in dir(native) if not name.startswith("_")]
    trees = [name for name in names if "tree" in name.lower()]
    found = f"its package offers to Python {', '.join(trees or names)}"
    for _ in sys.stdin:
        error = f"{found}: not measured" if trees else f"{found}, and no tree"
        sys.stdout.write(json.dumps({"error": error}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
