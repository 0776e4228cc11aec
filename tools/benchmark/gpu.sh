#!/usr/bin/env bash
# What needs a CUDA device: checks and speed of the attention operations, speed and
# equality of CMX in fp32 and bf16, and the tests marked `gpu`. Run it on such a machine:
#
#     bash tools/benchmark/gpu.sh
#
# The operations need torch and Triton only, and come first; without an mmseg stack the
# rest is left out, which is said. PARTS=ops asks for the operations alone.
#
# Variables: PYTHON (python3), PARTS (all), OPS_ARGS (arguments for ops.py),
# OUT (benchmarks: receives <gpu>.json, speed_*.json and gpu_tests.txt),
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
PARTS=${PARTS:-all}
OPS_ARGS=${OPS_ARGS:-}
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
"$PYTHON" - <<'PY' || stop 'torch cannot be imported (error above).'
import importlib
import platform

import torch

print('python', platform.python_version())
for name in ('torch', 'triton', 'mmengine', 'mmcv', 'mmseg', 'cv2'):
    try:
        print(name, importlib.import_module(name).__version__)
    except Exception as error:  # mmseg asserts the version of mmcv
        print(name, 'cannot be imported:', repr(error))
print('torch CUDA', torch.version.cuda, 'sees', torch.cuda.device_count(), 'devices')
PY
"$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' ||
    stop 'torch sees no CUDA device: nothing was run.'
mkdir -p "$OUT"
failed=()

finish() {
    if [ ${#failed[@]} -gt 0 ]; then
        printf 'gpu.sh: failed: %s\n' "${failed[@]}" >&2
        exit 1
    fi
    echo "gpu.sh: all done, results in $OUT"
    exit 0
}

echo '== attention operations'
"$PYTHON" -c 'import triton' || failed+=('Triton, without which the kernels do not run')
name=$("$PYTHON" -c 'import re, torch
print(re.sub("[^a-z0-9]+", "_", torch.cuda.get_device_name().lower()).strip("_"))')
# shellcheck disable=SC2086  # OPS_ARGS holds several arguments
"$PYTHON" tools/benchmark/ops.py --device cuda --out "$OUT/$name.json" $OPS_ARGS ||
    failed+=('ops.py')

stack() { # status 0: whole, 1: absent, else broken
    "$PYTHON" - <<'PY'
import sys
from importlib.util import find_spec

if not all(find_spec(name) for name in ('mmengine', 'mmcv', 'mmseg')):
    sys.exit(1)
try:
    import mmseg_xmodal
except Exception as error:
    print(repr(error), file=sys.stderr)
    sys.exit(2)
PY
}

if [ "$PARTS" != ops ]; then
    stack
    case $? in
        0) ;;
        1) PARTS=ops; echo 'no mmseg stack here: models and their tests are left out' ;;
        *) PARTS=ops; failed+=('import mmseg_xmodal (error above)') ;;
    esac
fi
if [ "$PARTS" = ops ]; then
    echo '== tests of the operations marked gpu'
    if "$PYTHON" -c 'import pytest' 2>/dev/null; then
        "$PYTHON" -m pytest -m gpu -q -p no:cacheprovider --confcutdir tests/test_ops \
            tests/test_ops 2>&1 | tee "$OUT/gpu_tests.txt"
        [ "${PIPESTATUS[0]}" = 0 ] || failed+=('pytest -m gpu tests/test_ops')
    else
        echo 'no pytest here: ops.py has run the same checks'
    fi
    finish
fi

CONFIGS=${CONFIGS:-$(first_config mit-b0) $(first_config mit-b2)}
[ -n "${CONFIGS// /}" ] || stop 'no configs/cmx/*mit-b0*.py; set CONFIGS.'

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

finish
