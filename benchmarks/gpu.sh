#!/usr/bin/env bash
# Everything worth measuring on a GPU: [PARTS="..."] benchmarks/gpu.sh OUT [DATA]
# Runs this checkout's cafe with the python of .venv, or with the one on the PATH; downloads nothing. Prints a JSON line
# per measurement and leaves them in OUT/PART.jsonl. Estimates for an H100 with 16 cores, where they were not timed yet:
#   step       6 min   the bare training step and forward pass on random tensors
#   loading    4 min   where crops come from; leaves a tile set of 12,000 x 12,000 px
#   train      2 min   cafe train on these tiles against the bare step; needs step and loading
#   predict    6 min   cafe predict against the bare forward pass; SIZE=20000 is the side of the scene
#   demo       2 min   the whole path on the sample data
#   unseen     hours   each site of DATA left out once, three seeds, with DATA only; see OUT/unseen/report.md
# PARTS="step loading" runs these only. UNSEEN replaces the seeds by other options of benchmarks.unseen: "--variant base
# labels distill --seed 0". DEVICE=cpu tries out all of it, with ENCODER, SCENE, SIZE, ROUNDS, the options STEP of step.py
# and UNSEEN="--config LITTLE.toml" for little ones.
set -euo pipefail
if [ $# -lt 1 ] || [ $# -gt 2 ] || [ "${1#-}" != "$1" ]; then
  echo "usage: [PARTS=\"...\"] $0 OUT [DATA]" >&2
  exit 2
fi
mkdir -p "$1"
out=$(cd "$1" && pwd) data=${2:+$(cd "$2" && pwd)}
root=$(cd "$(dirname "$0")/.." && pwd)
device=${DEVICE:-cuda} size=${SIZE:-20000} scene=${SCENE:-12000}
[ -x "$root/.venv/bin/python" ] && PATH=$root/.venv/bin:$PATH
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
cd "$root"

# float32 beside bf16, compiled or not, and memory.
step() {
  # shellcheck disable=SC2086
  python benchmarks/step.py --device "$device" ${STEP:-} | tee "$out/step.jsonl"
}

# Per second of CPU.
loading() {
  OMP_NUM_THREADS=1 python benchmarks/loading.py "$out/loading" --scene "$scene" | tee "$out/loading.jsonl"
}

# Crops per second, and the share of waiting for data, of the last of three epochs.
train() {
  python -m cafe_cli train "$out/loading/$scene-512/cut" -o "$out/train" --overwrite --device "$device" \
    --encoder "${ENCODER:-resnet50}" --weights none --epochs 3
  python - "$out" <<'PYTHON' | tee "$out/train.jsonl"
import csv
import json
import sys
import tomllib
from pathlib import Path

out = Path(sys.argv[1])
guidance = tomllib.loads((out / "train" / "config.toml").read_text())["model"]["guidance"]
epoch = list(csv.DictReader((out / "train" / "history.csv").open()))[-1]
row = {"what": "cafe train", "crops_per_second": float(epoch["crops_per_second"])}
measured = [json.loads(line) for line in (out / "step.jsonl").read_text().splitlines()]
bare = {
    row["precision"]: row["crops_per_second"]
    for row in measured
    if (row["what"], row["guidance"], row["compiled"]) == ("train", guidance, False)
}
speed = bare.get("bfloat16", bare["float32"])
row |= {"of_bare_step": round(row["crops_per_second"] / speed, 3), "data_wait": float(epoch["data_wait"])}
print(json.dumps(row))
PYTHON
}

# RGB and float32 heights from deflate GeoTIFF.
predict() {
  python benchmarks/tile_data.py "$out/scene" --size "$size"
  python - "$out/model.safetensors" "${ENCODER:-resnet50}" <<'PYTHON'
import sys
from pathlib import Path

from cafe_cli.model.model_file import ModelCard, save
from cafe_cli.classes import ClassTable, LandClass
from cafe_cli.config.schema import HeightSettings
from cafe_cli.model.cafe import Architecture, CaFE

table = ClassTable(tuple(LandClass(i, f"class {i}") for i in range(6)))
network = CaFE(Architecture(6, 3, optical_encoder=sys.argv[2], attention=1024))
network.set_statistics([128.0] * 3, [64.0] * 3, 4.0, 6.0)
card = ModelCard(
    architecture=network.architecture, classes=table, band_names=("red", "green", "blue"), dtype="uint8",
    gsd=0.1, height=HeightSettings(kind="ndsm", fill=0), window=512, epoch=0, scores=None, config={},
)
save(Path(sys.argv[1]), network.eval(), card)
PYTHON
  python benchmarks/overhead.py "$out/model.safetensors" "$out/scene/ortho.tif" "$out/scene/dsm.tif" "$out/predict" \
    --device "$device" --rounds "${ROUNDS:-3}" | tee "$out/predict.jsonl"
}

demo() {
  local start=$SECONDS
  python -m cafe_cli demo -c configs/sample.toml -o "$out/demo" --overwrite --device "$device"
  echo "{\"what\": \"cafe demo\", \"seconds\": $((SECONDS - start))}" | tee "$out/demo.jsonl"
}

# Results and report are in OUT/unseen. What is done is kept: called again, it goes on.
unseen() {
  local sites
  sites=$(python - "$data" <<'PYTHON'
import sys
from pathlib import Path

from benchmarks.unseen.sites import find_sites
from cafe_cli.errors import CafeError

try:
    found = find_sites(Path(sys.argv[1]))
except CafeError as error:
    sys.exit(str(error))
print(*(f"all-but-{site.name}" for site in found), sep="\n")
PYTHON
  )
  mapfile -t sites <<<"$sites"
  # shellcheck disable=SC2086
  python -m benchmarks.unseen run "$data" "$out/unseen" --train "${sites[@]}" --device "$device" ${UNSEEN:---seed 0 1 2}
}

parts=${PARTS:-step loading train predict demo ${data:+unseen}}
for part in $parts; do
  case $part in
    step | loading | train | predict | demo) ;;
    unseen) [ -n "$data" ] || { echo "unseen needs DATA: a folder of sites" >&2; exit 2; } ;;
    *) echo "no part is named $part: step, loading, train, predict, demo or unseen" >&2; exit 2 ;;
  esac
done
for part in $parts; do
  echo "== $part" >&2
  "$part"
done
