#!/usr/bin/env bash
# Runs the tests that need no model on other versions of Python: `tests/pythons.sh 3.11 3.12 3.13`.
# Each version has an environment of its own, .venv-3.12 and so on, without torch. A version is looked for as python3.12,
# which need not be the one that is active: pyenv's and uv's folders are searched too. What is not there is skipped, and
# named at the end.
set -euo pipefail
cd "$(dirname "$0")/.."
tests=(tests/core tests/dispatch tests/replay tests/simulate tests/transport tests/tree tests/wait_queue
    tests/test_errors.py tests/test_extensions.py tests/test_public.py tests/test_purity.py tests/test_tokens.py
    tests/test_types.py)
missing=()
failed=0

interpreter() {
    local candidate
    for candidate in "python$1" ~/.pyenv/versions/"$1".*/bin/python ~/.local/share/uv/python/cpython-"$1".*/bin/python; do
        if "$candidate" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" 2> /dev/null; then
            echo "$candidate"
            return
        fi
    done
    return 1
}

for version in "$@"; do
    if ! python=$(interpreter "$version"); then
        missing+=("$version")
        continue
    fi
    echo "== Python $version: $python"
    if [ ! -e ".venv-$version/installed" ] || [ pyproject.toml -nt ".venv-$version/installed" ]; then
        "$python" -m venv ".venv-$version"
        ".venv-$version/bin/python" -m pip install --quiet --disable-pip-version-check "pip>=25.1"
        ".venv-$version/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e . --group test
        touch ".venv-$version/installed"
    fi
    ".venv-$version/bin/python" -m pytest -q "${tests[@]}" || failed=1
done
for version in "${missing[@]}"; do echo "== Python $version: NOT INSTALLED, SKIPPED" >&2; done
exit "$failed"
