#!/usr/bin/env bash
# Everything worth measuring on a GPU, in one call: benchmarks/gpu.sh OUT [DATA]
# Uses the cafe of .venv, or the one on the PATH. Prints a JSON line per measurement and leaves them in OUT/gpu.jsonl.
# With DATA, which holds ortho.tif, dsm.tif and labels.tif, the whole study follows (many hours): OUT/study/report.md.
# The variable STUDY replaces its options: --jobs 4 shares the GPU, "--steps 4 --seeds 1 --device cpu" tries it out.
set -euo pipefail
if [ $# -lt 1 ] || [ $# -gt 2 ] || [ "${1#-}" != "$1" ]; then
  echo "usage: $0 OUT [DATA]" >&2
  exit 2
fi
mkdir -p "$1"
out=$(cd "$1" && pwd) data=${2:+$(cd "$2" && pwd)}
root=$(cd "$(dirname "$0")/.." && pwd)
[ -x "$root/.venv/bin/cafe" ] && PATH=$root/.venv/bin:$PATH
cd "$root"
: >"$out/gpu.jsonl"

# The bare training step and the bare forward pass on random tensors: float32 beside bf16, compiled or not, and memory.
python "$root/benchmarks/step.py" --device cuda | tee -a "$out/gpu.jsonl"

# Where crops come from, per second of CPU; it leaves a tile set of 12,000 x 12,000 px.
OMP_NUM_THREADS=1 python "$root/benchmarks/loading.py" "$out/loading" --scene 12000 | tee -a "$out/gpu.jsonl"

# The whole of cafe train on these tiles against the bare step: crops per second, and the share of waiting for data.
cafe train "$out/loading/12000-512/cut" -o "$out/train" --overwrite --device cuda --encoder resnet50 --weights none --epochs 3
python - "$out" <<'PYTHON' | tee -a "$out/gpu.jsonl"
import csv
import json
import sys
from pathlib import Path

out = Path(sys.argv[1])
epoch = list(csv.DictReader((out / "train" / "history.csv").open()))[-1]
speed = float(epoch["crops_per_second"])
measured = [json.loads(line) for line in (out / "gpu.jsonl").read_text().splitlines()]
(bare,) = (
    row["crops_per_second"]
    for row in measured
    if (row.get("guidance"), row.get("precision"), row.get("compiled")) == ("distill", "bfloat16", False)
)
row = {"what": "cafe train", "crops_per_second": speed, "of_bare_step": round(speed / bare, 3)}
print(json.dumps({**row, "data_wait": float(epoch["data_wait"])}))
PYTHON

# The whole of cafe predict against the bare forward pass: 20,000 x 20,000 px of RGB and float32 heights from deflate GeoTIFF.
python "$root/benchmarks/tile_data.py" "$out/scene" --size 20000
python - "$out/model.safetensors" <<'PYTHON'
import sys
from pathlib import Path

from cafe_cli.checkpoint import ModelCard, save
from cafe_cli.classes import ClassTable, LandClass
from cafe_cli.config import HeightSettings
from cafe_cli.model import Architecture, CaFE

table = ClassTable(tuple(LandClass(i, f"class {i}") for i in range(6)))
network = CaFE(Architecture(6, 3, optical_encoder="resnet50", attention=1024))
network.set_statistics([128.0] * 3, [64.0] * 3, 4.0, 6.0)
card = ModelCard(
    architecture=vars(network.architecture), classes=table.as_json(), band_names=("red", "green", "blue"), dtype="uint8",
    gsd=0.1, height=HeightSettings(kind="ndsm", fill=0), window=512, epoch=0, scores=None, config={},
)
save(Path(sys.argv[1]), network.eval(), card)
PYTHON
python "$root/benchmarks/overhead.py" "$out/model.safetensors" "$out/scene/ortho.tif" "$out/scene/dsm.tif" "$out/predict" \
  --device cuda | tee -a "$out/gpu.jsonl"

# The whole path on the sample data.
start=$SECONDS
cafe demo -c "$root/configs/sample.toml" -o "$out/demo" --overwrite --device cuda
echo "{\"what\": \"cafe demo\", \"seconds\": $((SECONDS - start))}" | tee -a "$out/gpu.jsonl"

# The whole study, every table. What is done is kept: called again, it goes on.
if [ -n "$data" ]; then
  python -m benchmarks.ablation "$data" "$out/study" --table all --resume ${STUDY:---steps 2000 --device cuda}
fi
