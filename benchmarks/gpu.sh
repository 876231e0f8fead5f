#!/usr/bin/env bash
# Everything worth measuring on a GPU, in one call: benchmarks/gpu.sh OUT
# Uses the cafe of .venv, or the one on the PATH. Prints a JSON line per measurement and leaves them in OUT/gpu.jsonl.
set -euo pipefail
if [ $# -ne 1 ]; then
  echo "usage: $0 OUT" >&2
  exit 2
fi
out=$1
root=$(cd "$(dirname "$0")/.." && pwd)
[ -x "$root/.venv/bin/cafe" ] && PATH=$root/.venv/bin:$PATH
mkdir -p "$out"
: >"$out/gpu.jsonl"

# The bare training step and the bare forward pass, float32 beside bf16, on random tensors.
python "$root/benchmarks/step.py" --device cuda | tee -a "$out/gpu.jsonl"

# The whole path on the sample data.
start=$SECONDS
cafe demo -c "$root/configs/sample.toml" -o "$out/demo" --overwrite --device cuda
echo "{\"what\": \"cafe demo\", \"seconds\": $((SECONDS - start))}" | tee -a "$out/gpu.jsonl"
