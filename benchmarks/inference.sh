#!/usr/bin/env bash
# Map one scene with `cafe predict` and with the sliding windows of other tools, in turns:
# benchmarks/inference.sh DATA MODEL OUT
# DATA holds ortho.tif, dsm.tif and labels.tif; MODEL was trained on such data. Set as environment variables:
#   WIDTH, HEIGHT           pixels of the scene, which is DATA mirrored over and over (6000)
#   RUNS                    rounds (3)
#   WINDOW, OVERLAP, BATCH  of all tools: pixels, pixels, windows (512, 128, 1)
#   CAFE_OPTIONS            more options of `cafe predict`
#   TOOLS                   those to run beside cafe (monai toolbelt terratorch geoai)
#   OTHERS                  a Python that has them and all that cafe needs (python)
#   OTHERS_OPTIONS          more options of inference_others.py: --contiguous
#   OMP_NUM_THREADS         threads of every tool (as many as there are cores)
# cafe runs twice: with the windows of the others, and with its own defaults.
# Leaves OUT/inference.jsonl (a line per run) and a map per tool, and prints the medians. Linux only.
set -euo pipefail
if [ $# -ne 3 ]; then
  echo "usage: $0 DATA MODEL OUT" >&2
  exit 2
fi
mkdir -p "$3"
data=$1 model=$2 out=$(cd "$3" && pwd)
width=${WIDTH:-6000} height=${HEIGHT:-6000} runs=${RUNS:-3} others=${OTHERS:-python}
windows=(--window "${WINDOW:-512}" --overlap "${OVERLAP:-128}" --batch-size "${BATCH:-1}")
read -ra tools <<<"${TOOLS-monai toolbelt terratorch geoai}"
read -ra cafe_options <<<"${CAFE_OPTIONS:-}"
read -ra others_options <<<"${OTHERS_OPTIONS:-}"
root=$(cd "$(dirname "$0")/.." && pwd)
[ -x "$root/.venv/bin/cafe" ] && PATH=$root/.venv/bin:$PATH
OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(nproc)}
PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} # OTHERS has no cafe of its own
export OMP_NUM_THREADS PYTHONPATH

scene=$out/scene-${width}x$height
if [ ! -e "$scene/made" ] || [ "$model" -nt "$scene/made" ]; then
  python "$root/benchmarks/scene_data.py" "$data" "$model" "$scene" --width "$width" --height "$height"
  touch "$scene/made"
fi
inputs=(--optical "$scene/ortho.tif" --elevation "$scene/height.tif")

# NAME COMMAND...: note a command's seconds, CPU seconds, largest resident set, and what it says itself in JSON.
time_it() {
  python - "$@" <<'END' | tee -a "$out/inference.jsonl"
import json, os, subprocess, sys, time
name, *command = sys.argv[1:]
start = time.perf_counter()
process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
printed = process.stdout.read().splitlines()
_, status, usage = os.wait4(process.pid, 0)
seconds = time.perf_counter() - start
if status:
    code = os.waitstatus_to_exitcode(status)
    sys.exit(f"{name} failed ({code}) after {seconds:.0f} s: {' '.join(command)}")
own = json.loads(printed[-1]) if printed and printed[-1].startswith("{") else {}
total = {"tool": name, "seconds": round(seconds, 2), "cpu": round(usage.ru_utime + usage.ru_stime, 2)}
print(json.dumps(own | total | {"peak_mb": round(usage.ru_maxrss * 1024 / 1e6)}))
END
}

# NAME OPTIONS...
run_cafe() {
  time_it "$1" cafe -q predict "$scene/model.safetensors" "${inputs[@]}" -o "$out/$1.tif" --overwrite \
    ${cafe_options[@]+"${cafe_options[@]}"} "${@:2}"
}

other=("$others" -W ignore "$root/benchmarks/inference_others.py" --tool)
run_other() {
  time_it "$1" "${other[@]}" "$1" --model "$scene/model.safetensors" "${inputs[@]}" "${windows[@]}" \
    -o "$out/$1.tif" ${others_options[@]+"${others_options[@]}"}
}

usable=()
for tool in ${tools[@]+"${tools[@]}"}; do
  if reason=$("${other[@]}" "$tool" --probe 2>&1); then
    usable+=("$tool")
  else
    echo "$tool is left out: ${reason##*$'\n'}" >&2
  fi
done

rm -f "$out"/{cafe,cafe-defaults,monai,toolbelt,terratorch,geoai}.tif
: >"$out/inference.jsonl"
for ((run = 0; run < runs; run++)); do
  run_cafe cafe "${windows[@]}"
  run_cafe cafe-defaults # windows that suit the scene
  for tool in ${usable[@]+"${usable[@]}"}; do
    run_other "$tool" || true # that one fails, of memory for instance, is a result too
  done
done

python - "$out" "$scene" <<'END'
import json, sys
from pathlib import Path
from statistics import median
import rasterio
from rasterio.windows import Window
from cafe_cli.model.stored import read_card
from cafe_cli.raster.grid import Grid
from cafe_cli.evaluation.metrics import Confusion, compute_scores
out, scene = map(Path, sys.argv[1:])
classes = read_card(scene / "model.safetensors").classes
runs = {}
for line in (out / "inference.jsonl").read_text().splitlines():
    run = json.loads(line)
    runs.setdefault(run["tool"], []).append(run)


def compare(name):
    """Return the share of pixels that have cafe's label, and the mIoU."""
    confusion, same = Confusion(len(classes)), 0
    paths = scene / "labels.tif", out / "cafe.tif", out / f"{name}.tif"
    labels, *maps = map(rasterio.open, paths)
    for row in range(0, labels.height, 512):
        window = Window(0, row, labels.width, min(512, labels.height - row))
        truth, ours, theirs = (d.read(1, window=window) for d in (labels, *maps))
        same += int((ours == theirs).sum())
        confusion.add(truth, theirs)
    return same / (labels.width * labels.height), compute_scores(confusion, classes).miou


with rasterio.open(scene / "ortho.tif") as ortho:
    grid = Grid.of(ortho)
area = grid.width * grid.height * grid.gsd**2 / 1e6
print(f"\n{grid.width} x {grid.height} pixels of {grid.gsd:.3g} m: {area:.2f} km2\n")
print("| tool              | seconds | / cafe | s/km2 | loading | forward | MB at most | / cafe | as cafe | mIoU  |")
print("|-------------------|---------|--------|-------|---------|---------|------------|--------|---------|-------|")
for name, rows in runs.items():
    seconds, peak = (median(row[key] for row in rows) for key in ("seconds", "peak_mb"))
    if name == "cafe":
        first = seconds, peak
    own = [f"{median(row[key] for row in rows):.1f}" if key in rows[0] else "-" for key in ("loading", "forward")]
    same, miou = compare(name)
    cells = f"{seconds:7.1f} | {seconds / first[0]:6.2f} | {seconds / area:5.1f} | {own[0]:>7} | {own[1]:>7}"
    cells += f" | {peak:10.0f} | {peak / first[1]:6.2f} | {100 * same:6.2f}% | {miou:.3f}"
    print(f"| {name + ' ' + rows[0].get('version', ''):17} | {cells} |")
END
