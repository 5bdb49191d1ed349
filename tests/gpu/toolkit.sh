#!/usr/bin/env bash
# Makes a CUDA toolkit folder out of Python packages: nvcc, its headers and nothing else. No root, no driver, no GPU.
#
#   tests/gpu/toolkit.sh [FOLDER]      100 MB to download, 270 MB on disk; prints the folder to use as CUDA_HOME
#
# FOLDER is $XDG_CACHE_HOME/rotary/cuda unless given; a folder that is whole is left as it is. Needs python3 with pip.
set -euo pipefail
folder=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/rotary/cuda}
# One release: compiler, its back end and its headers must fit each other.
packages=(nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85)
home=$folder/nvidia/cu13
whole=$folder/.whole-$(printf '%s ' "${packages[@]}" | cksum | cut -d' ' -f1)

if [ ! -e "$whole" ]; then
  mkdir -p "$folder"
  python3 -m pip --version >/dev/null 2>&1 || { echo "toolkit.sh: needs python3 with pip" >&2; exit 1; }
  python3 -m pip install -q --no-deps --no-compile --upgrade --only-binary=:all: --root-user-action=ignore --target "$folder" "${packages[@]}" >&2
  # The packages say lib where a toolkit says lib64.
  ln -sfn lib "$home/lib64"
  "$home/bin/nvcc" --version >&2
  rm -f "$folder"/.whole-*
  touch "$whole"
fi
echo "$home"
