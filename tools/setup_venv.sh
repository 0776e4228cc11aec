#!/usr/bin/env bash
# Make a virtual environment with torch, one mmseg stack and this package.
# Usage: setup_venv.sh onedl|openmmlab VENV   (environment: PYTHON, TORCH, XMODAL_WHEELS)
set -euo pipefail

stack=$1
venv=$2
torch=${TORCH:-torch==2.13.0}
wheels=${XMODAL_WHEELS:-../shared/wheels}
started=$SECONDS

say() { printf '[set-up] %s\n' "$*"; }
# `Location ... is ignored` comes from pip configurations that list absent folders.
constraint=()
install() { "$venv/bin/pip" install -q --disable-pip-version-check \
  "${constraint[@]}" "$@" 2> >(grep -v 'is ignored: it is neither' >&2); }

"$PYTHON" - <<'PY' || { say "set PYTHON=/path/to/python3.11 and run again"; exit 1; }
import sys
if not (3, 10) <= sys.version_info[:2] < (3, 13):
    sys.exit(f'[set-up] {sys.executable} is Python {sys.version.split()[0]}, '
             'expected 3.10, 3.11 or 3.12')
PY

say "virtual environment $venv with $("$PYTHON" --version), stack $stack"
[ -x "$venv/bin/python" ] || "$PYTHON" -m venv "$venv"

install_torch() {
  if "$venv/bin/python" -c 'import torch' 2>/dev/null; then
    return
  fi
  if command -v nvidia-smi >/dev/null; then
    say "NVIDIA driver found: $torch with CUDA (several GB)"
    install "$torch"
    return
  fi
  # A CPU build carries the local version +cpu: first from the configured index, then
  # from PyTorch's own; only then the default build, which brings CUDA along.
  if install "$torch+cpu" 2>/dev/null; then
    say "no NVIDIA driver: $torch+cpu"
  elif install --timeout 15 --retries 0 --extra-index-url \
      https://download.pytorch.org/whl/cpu "$torch+cpu" 2>/dev/null; then
    say "no NVIDIA driver: $torch+cpu from download.pytorch.org"
  else
    say "no NVIDIA driver and no CPU wheel of $torch to be had: taking the default"
    say "build of the configured index (on Linux it brings several GB of CUDA)"
    install "$torch"
  fi
}

install_openmmlab() {
  install 'setuptools<81' wheel mmengine==0.10.7 mmsegmentation==1.2.2 ftfy regex
  if "$venv/bin/python" -c 'import mmcv._ext' 2>/dev/null; then
    return
  fi
  if compgen -G "$wheels/mmcv-2.1.0-*.whl" >/dev/null &&
      install --no-index --no-deps --find-links "$wheels" mmcv==2.1.0 &&
      "$venv/bin/python" -c 'import mmcv._ext' 2>/dev/null; then
    say "mmcv 2.1.0 from $wheels"
  else
    say "no fitting mmcv 2.1.0 wheel in $wheels (set XMODAL_WHEELS): compiling it,"
    say "which takes 20 to 40 minutes on two cores"
    MMCV_WITH_OPS=1 install --no-cache-dir --no-build-isolation --no-binary mmcv \
      --force-reinstall --no-deps mmcv==2.1.0
  fi
  install addict packaging pillow pyyaml yapf opencv-python
}

# timm needs the Python part of torchvision. The wheel of the default index is built for
# CUDA and stops at import beside a torch for the CPU, and then mmengine stops, too.
mend_torchvision() {
  works() { "$venv/bin/python" -W ignore -c 'import torchvision' 2>/dev/null; }
  works && return
  local version
  version=$("$venv/bin/python" -c \
    'from importlib.metadata import version; print(version("torchvision").split("+")[0])')
  install --no-deps "torchvision==$version+cpu" 2>/dev/null ||
    install --no-deps --timeout 15 --retries 0 --extra-index-url \
      https://download.pytorch.org/whl/cpu "torchvision==$version+cpu" 2>/dev/null || true
  works && return
  # The last one whose Python part comes up without its compiled part.
  install --no-deps torchvision==0.16.2 2>/dev/null && install requests || true
  if works; then
    say "no CPU wheel of torchvision $version to be had: 0.16.2, its Python part only"
  else
    "$venv/bin/pip" uninstall -q -y torchvision
    say "no torchvision for the CPU to be had: the tests of TimmStream will be skipped"
  fi
}

install_torch
# Whatever comes next must not replace the torch that was chosen.
"$venv/bin/python" -c 'import torch; print(f"torch=={torch.__version__}")' \
  > "$venv/constraints.txt"
constraint=(-c "$venv/constraints.txt")
case $stack in
  onedl) install -e '.[onedl,encoders,demo,tif,exr,dev]' ;;
  openmmlab)
    install_openmmlab
    install -e '.[encoders,demo,tif,exr,dev]'
    # Dense heads of mmdet behind MMDetHead, and mmseg's Mask2Former, are tested here.
    install mmdet==3.3.0
    ;;
  *) say "unknown stack $stack, expected onedl or openmmlab"; exit 2 ;;
esac
mend_torchvision
"$venv/bin/python" -c 'import mmseg_xmodal, torch, mmengine, mmcv, mmseg.models'
touch "$venv/.ready"
say "ready in $((SECONDS - started)) s, downloads included"
