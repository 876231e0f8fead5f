#!/usr/bin/env bash
# One real scene from raw rasters to a map, on the CPU: benchmarks/autzen.sh DATA OUT
# DATA holds ortho.tif, dsm.tif and labels.tif. Leaves OUT/model.safetensors (of the last step, which no
# score has chosen), OUT/scores.json (of the best epoch on the tile set's own spatial validation, which
# flatters: see docs/unseen.md), OUT/map.tif and OUT/seconds.txt.
set -euo pipefail

if [ $# -ne 2 ]; then
  echo "usage: $0 DATA OUT" >&2
  exit 2
fi
data=$1 out=$2
root=$(cd "$(dirname "$0")/.." && pwd)
config=$root/configs/autzen.toml
[ -x "$root/.venv/bin/cafe" ] && PATH=$root/.venv/bin:$PATH
mkdir -p "$out"

cafe tile -c "$config" --optical "$data/ortho.tif" --elevation "$data/dsm.tif" \
  --labels "$data/labels.tif" -o "$out/tiles" --overwrite
start=$SECONDS
cafe train "$out/tiles" -c "$config" -o "$out/run" --device cpu --overwrite
echo "training: $((SECONDS - start)) s" | tee "$out/seconds.txt"
cp "$out/run/final.safetensors" "$out/model.safetensors"
cp "$out/run/scores.json" "$out/scores.json"
cafe predict "$out/model.safetensors" --optical "$data/ortho.tif" --elevation "$data/dsm.tif" \
  -o "$out/map.tif" --confidence "$out/confidence.tif" --device cpu --overwrite
