#!/usr/bin/env bash
# Command-line clients against `preble serve` over two workers with a real model: llm, lm-eval by log-likelihoods, and
# `vllm bench serve` if .venv-engines is there. `clients.sh FOLDER`: of the environment that is made there for them.
set -euo pipefail
venv=${1:-.venv-clients}
cd "$(dirname "$0")/../.."
export HF_HUB_OFFLINE=1 OPENAI_API_KEY=none TQDM_DISABLE=1
if [ ! -x "$venv/bin/lm-eval" ]; then
    "${PYTHON:-python3}" -m venv --clear "$venv"
    "$venv/bin/python" -m pip install --quiet uv
    "$venv/bin/python" -m uv pip install --quiet --python "$venv/bin/python" --no-deps -r tests/frameworks/clients.txt
fi
scratch=$(mktemp -d)
model=$(.venv/bin/python -m preble get-model --format hf smollm2-135m | tail -1)
.venv/bin/python -m preble serve "$model" --workers 2 --port 0 --engine-option dtype=float32 > "$scratch/served" &
server=$!
trap 'kill $server; wait $server || true; rm -rf "$scratch"' EXIT
for _ in $(seq 1200); do
    url=$(sed -n 's/.* at \(http.*\)/\1/p' "$scratch/served")
    [ -n "$url" ] || ! kill -0 $server 2> /dev/null && break
    sleep 0.1
done
[ -n "$url" ] || { echo "preble serve has not said where it listens"; exit 1; }

echo "llm"
cat > "$scratch/extra-openai-models.yaml" <<YAML
- {model_id: preble, model_name: any, api_base: "$url"}
YAML
LLM_USER_PATH=$scratch "$venv/bin/llm" -m preble --key none -o temperature 0 -o max_tokens 24 "What is the capital of France?"

echo "lm-eval"
"$venv/bin/lm-eval" run --model local-completions --tasks capitals --include_path tests/frameworks/lm_eval \
    --model_args "model=any,base_url=$url/completions,tokenizer=$model,num_concurrent=4" 2> "$scratch/log" | grep '|'

if [ -x .venv-engines/bin/python ]; then
    echo "vllm bench serve"
    # The CPU wheel has another name, which the command `vllm` itself does not look for.
    .venv-engines/bin/python - --backend openai-chat --endpoint /v1/chat/completions --base-url "${url%/v1}" --model any \
        --tokenizer "$model" --dataset-name random --random-input-len 128 --random-output-len 16 --num-prompts 8 \
        --max-concurrency 2 --ready-check-timeout-sec 0 --disable-tqdm 2>> "$scratch/log" << 'PYTHON' | grep -v Namespace
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser

parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
PYTHON
fi
