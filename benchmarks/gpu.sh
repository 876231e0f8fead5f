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
