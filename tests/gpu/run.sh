#!/usr/bin/env bash
# Builds the program with GPU kernels here and takes it, with the reference models and the steps of there.sh, to a machine with a GPU.
#
#   tests/gpu/run.sh                   packs target/gpu/travel, a folder that needs nothing but a driver
#   tests/gpu/run.sh USER@HOST [ARGS]  also sends it there, runs there.sh with ARGS, and fetches target/gpu/results
set -euo pipefail
cd "$(dirname "$0")/../.."
travel=target/gpu/travel
bash tests/gpu/build.sh "$travel/rotary"
strip "$travel/rotary"
cp tests/gpu/there.sh tests/gpu/big_model.py "$travel/"
rm -rf "$travel/fixtures"
cp -r tests/reference/fixtures "$travel/fixtures"
du -sh "$travel"
[ $# -ge 1 ] || { echo "run.sh: copy $travel to the machine and run there: bash there.sh --out results"; exit 0; }
host=$1
shift
tar cz -C target/gpu travel | ssh "$host" 'mkdir -p rotary-gpu && tar xz -C rotary-gpu'
code=0
ssh "$host" "cd rotary-gpu/travel && bash there.sh --out results $(printf '%q ' "$@")" || code=$?
mkdir -p target/gpu/results
ssh "$host" 'tar cz -C rotary-gpu/travel/results .' | tar xz -C target/gpu/results
echo "run.sh: results in target/gpu/results"
exit $code
