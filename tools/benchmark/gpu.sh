#!/usr/bin/env bash
# What needs a CUDA device: speed and equality of CMX in fp32 and bf16, and the tests
# marked `gpu`. Run it on such a machine, with the package's requirements installed:
#
#     bash tools/benchmark/gpu.sh
#
# Variables: PYTHON (python3), OUT (benchmarks: receives speed_*.json and gpu_tests.txt),
# CONFIGS (one CMX config each of MiT-B0 and MiT-B2), SHAPE (480 640), BATCHES (1 8),
# REPEATS (30), THREADS (4). Goes on after a failed part and ends with status 1 then.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

PYTHON=${PYTHON:-python3}
OUT=${OUT:-benchmarks}
SHAPE=${SHAPE:-480 640}
BATCHES=${BATCHES:-1 8}
REPEATS=${REPEATS:-30}
THREADS=${THREADS:-4}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1

stop() {
    echo "gpu.sh: $*" >&2
    exit 3
}

first_config() { # of a MiT variant
    ls configs/cmx/*"$1"*.py 2>/dev/null | head -n 1
}

echo '== environment'
command -v "$PYTHON" >/dev/null || stop "no $PYTHON here; set PYTHON."
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv 2>/dev/null ||
    echo 'nvidia-smi gives nothing'
"$PYTHON" - <<'PY' || stop 'torch or an mmseg stack cannot be imported (error above).'
import platform

import cv2
import mmcv
import mmengine
import mmseg
import torch

print('python', platform.python_version())
for module in (torch, mmengine, mmcv, mmseg, cv2):
    print(module.__name__, module.__version__)
print('torch CUDA', torch.version.cuda, 'sees', torch.cuda.device_count(), 'devices')
import mmseg_xmodal

print('mmseg_xmodal', mmseg_xmodal.__version__)
PY
"$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' ||
    stop 'torch sees no CUDA device: nothing was run.'

CONFIGS=${CONFIGS:-$(first_config mit-b0) $(first_config mit-b2)}
[ -n "${CONFIGS// /}" ] || stop 'no configs/cmx/*mit-b0*.py; set CONFIGS.'
mkdir -p "$OUT"
failed=()

for config in $CONFIGS; do
    for batch in $BATCHES; do
        for precision in fp32 bf16; do
            name="speed_$(basename "$config" .py)_cuda_${precision}_b$batch"
            echo "== $name"
            # shellcheck disable=SC2086  # SHAPE holds two numbers
            "$PYTHON" tools/benchmark/speed.py "$config" --device cuda \
                --shape $SHAPE --batch "$batch" --precision "$precision" \
                --threads "$THREADS" --repeats "$REPEATS" --against published \
                --out "$OUT/$name.json" || failed+=("$name")
        done
    done
done

echo '== tests marked gpu'
"$PYTHON" -m pytest -m gpu -q -p no:cacheprovider 2>&1 | tee "$OUT/gpu_tests.txt"
status=${PIPESTATUS[0]}
if [ "$status" = 5 ]; then
    echo 'no test is marked gpu'
elif [ "$status" != 0 ]; then
    failed+=('pytest -m gpu')
fi

if [ ${#failed[@]} -gt 0 ]; then
    printf 'gpu.sh: failed: %s\n' "${failed[@]}" >&2
    exit 1
fi
echo "gpu.sh: all done, results in $OUT"
