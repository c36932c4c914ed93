#!/usr/bin/env bash
# Builds llama.cpp at its best for this machine in an environment of its own, once, then compares.
# The two flags work around GCC 12 dropping stores that AMX's tile configuration reads.
set -euo pipefail
cd "$(dirname "$0")/.."
peers=${QWELL_PEERS:-build/peers}
if ! "$peers/bin/python" -c 'import llama_cpp' 2>/dev/null; then
  echo "building llama.cpp in $peers, once; this takes some minutes" >&2
  python3 -m venv "$peers"
  "$peers/bin/pip" install -q numpy
  CXXFLAGS="-fno-tree-dse -fno-dse" CMAKE_ARGS="-DGGML_NATIVE=ON" \
    "$peers/bin/pip" install -q --no-binary llama-cpp-python llama-cpp-python
fi
.venv/bin/python benchmarks/peers/compare.py "${1:-qwen2.5-coder:0.5b}" "$peers/bin/python" "${@:2}"
