#!/usr/bin/env bash
# Builds the core (all but its Python bindings) for AArch64 and runs tests/cross under emulation: the
# NEON kernels on a CPU without the dot product instructions, then those that use them. No hardware
# is needed, so it says nothing about speed.
set -euo pipefail
cd "${0%/*}/.."
for tool in aarch64-linux-gnu-g++ qemu-aarch64; do
  command -v "$tool" >/dev/null || { echo "qwell: $tool is missing: apt-get install g++-aarch64-linux-gnu qemu-user"; exit 1; }
done
PATH=$PWD/.venv/bin:$PATH
cmake -S tests/cross -B build/neon -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_SYSTEM_NAME=Linux \
  -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ >/dev/null
cmake --build build/neon
qemu-aarch64 -cpu cortex-a53 build/neon/check neon
if qemu-aarch64 -cpu cortex-a53 build/neon/check dotprod 2>/dev/null; then
  echo "qwell: dot product instructions were offered on a CPU without them"
  exit 1
fi
qemu-aarch64 -cpu neoverse-n1 build/neon/check dotprod
