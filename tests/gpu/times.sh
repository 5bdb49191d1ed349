#!/usr/bin/env bash
# Where does a token's time go? Runs a program with the driver's tracing library (CUPTI) and prints, for its last tokens, every kernel and copy of the compute lane: how often, how long, how much
# of that nothing else ran, and how long the lane was idle before it. Tracing makes short kernels and calls of the driver slower: take it for proportions.
#
#   tests/gpu/times.sh OUT.csv COMMAND…     such as: tests/gpu/times.sh /tmp/t.csv rotary bench big.gguf --device gpu --vram 6.3GiB --prompt 512 --gen 48 --repeat 1
#
# Needs g++, python3, the headers of CUPTI 13 and CUDA (under CUDA_HOME, /usr/local/cuda or in Python packages: nvidia-cuda-cupti, nvidia-cuda-runtime), and libcupti there.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
csv=$1
shift
packages=$(python3 -c 'import glob, sys; print(*sorted(d for p in sys.path for d in glob.glob(p + "/nvidia/cu*")))')
include=() lib=()
for home in ${CUDA_HOME:-} /usr/local/cuda $packages; do
  for folder in "$home" "$home/extras/CUPTI"; do
    [ -d "$folder/include" ] && include+=("-I$folder/include")
    for libs in "$folder/lib64" "$folder/lib"; do [ -d "$libs" ] && lib+=("$libs"); done
  done
done
library=$(for folder in "${lib[@]}"; do ls "$folder"/libcupti.so* 2>/dev/null; done | head -1)
[ -n "$library" ] || { echo "times.sh: no libcupti; the Python package nvidia-cuda-cupti has it" >&2; exit 1; }
g++ -O2 -shared -fPIC "${include[@]}" "$here/times.cpp" -o "$csv.so" "$library"
KERNEL_TIMES=$csv CUDA_INJECTION64_PATH=$csv.so LD_LIBRARY_PATH="$(dirname "$library"):$(IFS=:; echo "${lib[*]}")${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" "$@"
rm -f "$csv.so"
[ -s "$csv" ] || { echo "times.sh: nothing was traced: the program used no GPU, or the driver took no tracer" >&2; exit 1; }
python3 "$here/times.py" "$csv"
