#!/usr/bin/env bash
# All that is to be known of a GPU, in one call that ends by itself: benchmarks/gpu.sh OUT [OPTION ...]
#   benchmarks/gpu.sh OUT                         on the GPU, 480 s at most
#   benchmarks/gpu.sh OUT --parts predict train   these parts only; --budget 240 for less time
#   benchmarks/gpu.sh OUT --device cpu --tiny     every part with tiny numbers, on a CPU: does it still work?
# Needs: bash, one GPU of 40 GB or more, 8 cores or more, 32 GB of memory, 10 GB of disk in TMPDIR (or --work FOLDER), and
# a python that can import torch with CUDA and what else `pip install .` installs: that of PYTHON, of .venv in this
# checkout, or of the PATH, in this order. Reads this checkout, needs no network and no data, and writes to OUT and TMPDIR
# only. OUT/summary.md, renewed after every part, has goals and figures; OUT/PART.jsonl all measurements, each written at
# once; OUT/PART.log what a part printed. What each part answers: benchmarks/README.md.
set -euo pipefail
if [ $# -lt 1 ] || [ "${1#-}" != "$1" ]; then
  echo "usage: $0 OUT [--device cuda|cpu] [--budget SECONDS] [--parts PART ...] [--work FOLDER] [--tiny]" >&2
  exit 2
fi
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
[ -z "${PYTHON:-}" ] && [ -x "$root/.venv/bin/python" ] && python=$root/.venv/bin/python
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} PYTHONDONTWRITEBYTECODE=1
exec "$python" -m benchmarks.gpu "$@"
