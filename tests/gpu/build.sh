#!/usr/bin/env bash
# Really builds the program with GPU kernels, on a machine without a GPU, and looks at what came out. Run it before a change of the GPU
# tier lands; .ci/run only type-checks.
#
#   tests/gpu/build.sh [OUT]           OUT: where the program goes; target/gpu/rotary unless given
#
#   CUDA_HOME          a toolkit; without one, tests/gpu/toolkit.sh makes it
#   CARGO_TARGET_DIR   as for cargo; target/gpu/cargo unless given
#   ROTARY_CUDA_ARCHS  generations to compile for ("80 90"); all unless given
#   WHOLE=1            candle's precompiled kernels too, which the program leaves out anyway: ten minutes of two cores more
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${1:-target/gpu/rotary}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target/gpu/cargo}
export CUDA_HOME=${CUDA_HOME:-$(bash tests/gpu/toolkit.sh)}
command -v g++ >/dev/null || { echo "build.sh: nvcc needs g++" >&2; exit 1; }
if [ "${WHOLE:-0}" = 1 ]; then
  export PATH=$CUDA_HOME/bin:$PATH
else
  export REAL_NVCC=$CUDA_HOME/bin/nvcc ROTARY_NVCC=$CUDA_HOME/bin/nvcc NVCC=$PWD/tests/gpu/nvcc-modules
fi

begin=$(date +%s)
cargo build --locked --release --features cuda --bin rotary
mkdir -p "$(dirname "$out")"
cp "$CARGO_TARGET_DIR/release/rotary" "$out"
strip -o "$out.stripped" "$out"
echo "built in $(($(date +%s) - begin)) s: $(stat -c %s "$out") bytes, $(stat -c %s "$out.stripped") stripped"
rm -f "$out.stripped"

fail() { echo "build.sh: $*" >&2; exit 1; }
needs=$(readelf -d "$out" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
echo 'needs:' $needs
for library in libcuda libcudart libcublas libcurand libnvrtc; do
  case $needs in *"$library"*) fail "the program needs $library to start: a name is missing in src/gpu/driver.rs" ;; esac
done
fatbin=$(ls -t "$CARGO_TARGET_DIR"/release/build/rotary-*/out/rotary.fatbin | head -1)
echo "kernels: $(stat -c %s "$fatbin") bytes"
if [ -x "$CUDA_HOME/bin/cuobjdump" ]; then "$CUDA_HOME/bin/cuobjdump" --list-elf "$fatbin"; fi

"$out" doctor | grep GPU || fail 'doctor says nothing of the GPU'
said=$("$out" run demo -p Hello --greedy --max-tokens 8) || fail 'the program does not answer here'
[ -n "$said" ] || fail 'the answer is empty'
echo "answers: $said"
if ! ldconfig -p | grep -q libcuda.so.1; then
  "$out" bench demo --json | grep -q 'CPU (no CUDA driver)' || fail 'without a driver the device must be called CPU (no CUDA driver)'
  if "$out" run demo -p Hello --device gpu 2>/tmp/rotary-gpu.$$; then fail '--device gpu must be refused here'; fi
  cat /tmp/rotary-gpu.$$; grep -q 'driver' /tmp/rotary-gpu.$$ || fail 'the refusal must name the driver'
  rm -f /tmp/rotary-gpu.$$
fi
echo "build.sh: fine, $out"
