#!/usr/bin/env bash
# Rotary beside llama.cpp: the same GGUF file, the same threads, taking turns in one run. Prints tokens/s of both and the ratio.
#
#   tests/compare/llama.sh MODEL.gguf [--peer DIR] [--threads 2] [--rounds 3] [--repack] [--rotary PATH] [-- options of rotary bench]
#
# Builds nothing of llama.cpp: its binaries come from npm (@node-llama-cpp/linux-x64), the Python declarations of its C API from
# the source package llama-cpp-python on PyPI; both are put into --peer DIR (default: target/peer) on the first run.
# Needs: cargo (or --rotary), npm, python3, Linux on x86-64.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd); root=$(cd "$here/../.." && pwd)
npm_version=3.22.1 pypi_version=0.3.36
[ $# -ge 1 ] && [ "${1#-}" = "$1" ] || { sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2; }
model=$1; shift
peer=$root/target/peer rotary= bench= rest=()
while [ $# -gt 0 ]; do case $1 in
    --peer) peer=$2; shift 2 ;;
    --rotary) rotary=$2; shift 2 ;;
    --) shift; bench=$*; break ;;
    *) rest+=("$1"); shift ;;
esac; done

if [ ! -e "$peer/ready" ]; then
    mkdir -p "$peer"; peer=$(cd "$peer" && pwd)
    echo "installing the peer into $peer" >&2
    (cd "$peer" && npm pack --silent "@node-llama-cpp/linux-x64@$npm_version" >/dev/null && tar xzf node-llama-cpp-linux-x64-*.tgz)
    [ -e "$peer/venv" ] || python3 -m venv "$peer/venv"
    "$peer/venv/bin/pip" install -q typing_extensions
    "$peer/venv/bin/pip" download -q --no-deps --no-binary llama-cpp-python "llama-cpp-python==$pypi_version" -d "$peer"
    mkdir -p "$peer/python"
    tar xzf "$peer"/llama_cpp_python-*.tar.gz -C "$peer/python" --strip-components=1 --wildcards '*/llama_cpp/llama_cpp.py' '*/llama_cpp/_*.py'
    : > "$peer/python/llama_cpp/__init__.py"    # the declarations alone: the package's own start-up wants more of PyPI
    lib=$peer/package/bins/linux-x64
    [ -e "$lib/libllama.so" ] || ln -s "$(basename "$lib"/libllama.v*.so)" "$lib/libllama.so"
    touch "$peer/ready"
fi
peer=$(cd "$peer" && pwd)
[ -n "$rotary" ] || { (cd "$root" && cargo build --release --quiet); rotary=$root/target/release/rotary; }
lib=$peer/package/bins/linux-x64
export LLAMA_CPP_LIB_PATH=$lib GGML_BACKEND_DIR=$lib LD_LIBRARY_PATH=$lib PYTHONPATH=$peer/python
exec "$peer/venv/bin/python" "$here/llama.py" "$model" --rotary "$rotary" --bench="$bench" "${rest[@]}"
