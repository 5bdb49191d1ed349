#!/usr/bin/env bash
# Makes a folder with llama.cpp for a machine with an NVIDIA GPU, for tests/gpu/there.sh --llama FOLDER.
#
#   tests/compare/peer_gpu.sh FOLDER
#
# Builds nothing: the libraries come from npm (@node-llama-cpp/linux-x64-cuda), the Python declarations of the C API from the source package
# llama-cpp-python on PyPI. There: CUDA 13's libcudart and libcublas, python3. The libraries hold machine code for capabilities 8.6, 8.9 and 12;
# other GPUs translate portable code, for which their driver must know CUDA 13.1.
# Needs: npm, python3 with pip.
set -euo pipefail
[ $# = 1 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
npm_version=3.22.1 pypi_version=0.3.36
mkdir -p "$1" && cd "$1"
(npm pack --silent "@node-llama-cpp/linux-x64-cuda@$npm_version" >/dev/null && tar xzf node-llama-cpp-linux-x64-cuda-*.tgz)
rm -rf lib py
mv package/bins/linux-x64-cuda lib
ln -s "$(basename lib/libllama.*v*.so)" lib/libllama.so
mkdir -p py
python3 -m pip download -q --no-deps --no-binary llama-cpp-python "llama-cpp-python==$pypi_version" -d .
tar xzf llama_cpp_python-*.tar.gz -C py --strip-components=1 --wildcards '*/llama_cpp/llama_cpp.py' '*/llama_cpp/_*.py'
: >py/llama_cpp/__init__.py # the declarations alone: the package's own start-up wants more of PyPI
python3 -m pip install -q --target py typing_extensions
cp "$here/peer.py" .
rm -rf package ./*.tgz ./*.tar.gz
echo "$PWD"
