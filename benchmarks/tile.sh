#!/usr/bin/env bash
# Cut an orthophoto, a surface model and labels into tiles of 512 pixels, cafe beside GDAL's own tools:
# benchmarks/tile.sh OUT [SIZE [RUNS]]   (12000 pixels along each side, 3 runs; about 4 GB in OUT)
# Runs take turns; a last round, which is not timed, watches memory. Leaves OUT/tile.tsv (a line per run) and
# prints the medians. Linux only.
set -euo pipefail
if [ $# -lt 1 ] || [ $# -gt 3 ]; then
  echo "usage: $0 OUT [SIZE [RUNS]]" >&2
  exit 2
fi
mkdir -p "$1"
out=$(cd "$1" && pwd) size=${2:-12000} runs=${3:-3}
root=$(cd "$(dirname "$0")/.." && pwd)
[ -x "$root/.venv/bin/cafe" ] && PATH=$root/.venv/bin:$PATH
data=$out/data-$size
if [ ! -e "$data/made" ]; then
  python "$root/benchmarks/tile_data.py" "$data" --size "$size"
  touch "$data/made"
fi

cat >"$out/tile.toml" <<END
root = "$data"
classes = [
  { id = 0, name = "paved" }, { id = 1, name = "building" }, { id = 2, name = "grass" }, { id = 3, name = "tree" },
]
[scenes]
optical = "ortho.tif"
elevation = "dsm.tif"
labels = "labels.tif"
[height]
kind = "ndsm"
[tile]
size = 512
overlap = 0
min_valid = 0
min_labelled = 0
[split]
validation = 0
END

cafe_tile() { cafe -q tile -c "$out/tile.toml" -o "$out/tiles/set"; }

# The same compression, layout and predictors as cafe's: NAME PREDICTOR.
rasters=$'ortho 2\ndsm 3\nlabels 1'
retile() {
  mkdir "$out/tiles/$1"
  gdal_retile.py -q -ps 512 512 -co COMPRESS=DEFLATE -co PREDICTOR="$2" -targetDir "$out/tiles/$1" "$data/$1.tif"
}
retile_each() { while read -r name predictor; do retile "$name" "$predictor"; done <<<"$rasters"; }
retile_at_once() { # as many at a time as there are cores
  export -f retile && export out data
  xargs -P "$(nproc)" -L 1 bash -c 'retile "$@"' retile <<<"$rasters"
}
raster_tile() {
  while read -r name predictor; do
    gdal raster tile -q --tiling-scheme raster --tile-size 512 --resampling nearest --no-alpha --webviewer none \
      --output-format GTiff --co COMPRESS=DEFLATE --co PREDICTOR="$predictor" "$data/$name.tif" "$out/tiles/$name"
  done <<<"$rasters"
}

# Run FUNCTION in a session of its own, over an empty folder.
begin() {
  rm -rf "$out/tiles" && mkdir "$out/tiles" && sync
  setsid bash -c "set -euo pipefail; $(declare -p out data rasters); $(declare -f); $1" &
  job=$!
}

# NAME FUNCTION: note seconds, bytes and number of the tiles.
time_it() {
  local start job
  begin "$2"
  start=$EPOCHREALTIME
  wait "$job"
  python - "$1" "$start" "$EPOCHREALTIME" "$out/tiles" <<'END' | tee -a "$out/tile.tsv"
import sys
from pathlib import Path
name, start, end, folder = sys.argv[1:]
tiles = [p.stat().st_size for p in Path(folder).rglob("*.tif")]
print(name, f"{float(end) - float(start):.2f}", sum(tiles), len(tiles), sep="\t")
END
}

# NAME FUNCTION: note the memory of the command and of all that it starts: the highest sum of their proportional
# set sizes, in which pages that processes share count once. Looking costs time, so these runs are not timed.
watch_it() {
  local job pid key kilobytes sum peak=0
  begin "$2"
  while kill -0 "$job" 2>/dev/null; do
    sum=0
    for pid in $(pgrep -s "$job"); do
      while read -r key kilobytes _; do
        if [ "$key" = Pss: ]; then sum=$((sum + kilobytes)); fi
      done 2>/dev/null <"/proc/$pid/smaps_rollup" || true
    done
    if [ "$sum" -gt "$peak" ]; then peak=$sum; fi
    sleep 0.2
  done
  wait "$job"
  printf '%s\tMB\t%d\n' "$1" $((peak / 1000)) | tee -a "$out/tile.tsv"
}

tools=("cafe tile:cafe_tile")
if command -v gdal_retile.py >/dev/null; then
  tools+=("gdal_retile.py, one by one:retile_each" "gdal_retile.py, at once:retile_at_once")
else
  echo "gdal_retile.py is not installed (Debian: gdal-bin, python3-gdal): left out" >&2
fi
if gdal raster tile --help >/dev/null 2>&1; then
  tools+=("gdal raster tile:raster_tile")
else
  echo "no 'gdal raster tile' (GDAL 3.11 or later): left out" >&2
fi

: >"$out/tile.tsv"
for ((run = 0; run < runs; run++)); do
  for tool in "${tools[@]}"; do time_it "${tool%%:*}" "${tool#*:}"; done
done
for tool in "${tools[@]}"; do watch_it "${tool%%:*}" "${tool#*:}"; done
rm -rf "$out/tiles"

python - "$out/tile.tsv" <<'END'
import sys
from pathlib import Path
from statistics import median
runs, memory = {}, {}
for line in Path(sys.argv[1]).read_text().splitlines():
    name, *values = line.split("\t")
    if values[0] == "MB":
        memory[name] = float(values[1])
    else:
        runs.setdefault(name, []).append([float(v) for v in values])
middle = {name: [*map(median, zip(*rows)), memory[name]] for name, rows in runs.items()}
first = next(iter(middle.values()))
print(f"\n| {'':27} | seconds | MB at most | MB of tiles | tiles | seconds, memory, bytes / cafe |")
print(f"|{'-' * 29}|---------|------------|-------------|-------|-------------------------------|")
for name, (seconds, size, count, peak) in middle.items():
    ratios = f"{seconds / first[0]:.2f}, {peak / first[3]:.2f}, {size / first[1]:.2f}"
    print(f"| {name:27} | {seconds:7.1f} | {peak:10.0f} | {size / 1e6:11.0f} | {count:5.0f} | {ratios:29} |")
END
