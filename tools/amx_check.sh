#!/usr/bin/env bash
# Builds the core with every AMX instruction trapped and emulated (tests/cross/amx_traps.cpp) and runs
# the native and training kernel tests, or those it is given, as on a CPU with AMX. Needs AVX-512 with
# BF16; says nothing about speed.
set -euo pipefail
cd "$(dirname "$0")/.."
grep -qw avx512_bf16 /proc/cpuinfo || { echo "qwell: this CPU has no AVX-512 BF16, over which tiles are emulated"; exit 1; }
bin=$PWD/.venv/bin
build=build/amx
mkdir -p "$build"
${CXX:-c++} -std=c++20 -O2 -fPIC -ffp-contract=off -Wall -Wextra -Icsrc -c tests/cross/amx_traps.cpp -o "$build/amx_traps.o"
"$bin/cmake" -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release \
  -DCMAKE_MODULE_LINKER_FLAGS="-Wl,--wrap=_ZN5qwell3cpuEv,--wrap=syscall $PWD/$build/amx_traps.o" \
  -DPython_EXECUTABLE="$bin/python" -Dnanobind_DIR="$("$bin/python" -m nanobind --cmake_dir)" \
  -DCMAKE_MAKE_PROGRAM="$bin/ninja" >/dev/null
"$bin/cmake" --build "$build"
site=$build/site
rm -rf "$site" && mkdir -p "$site" && cp -r src/qwell "$site/" && rm -f "$site"/qwell/_core*.so
cp "$build"/_core*.so "$site/qwell/"
# -S leaves the editable install out, which hooks imports ahead of PYTHONPATH. pytest's fault handler
# would take SIGILL for itself.
export PYTHONPATH="$site:$("$bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["platlib"])'):."
"$bin/python" -S -c 'from qwell import _core; assert _core.amx_status() == "ok", _core.amx_status()'
# Not by default: test_invariance, which takes many long steps (an hour of traps).
[ $# -gt 0 ] || set -- tests/native --ignore=tests/native/test_invariance.py tests/train/test_kernels.py
"$bin/python" -S -m pytest -q -p no:cacheprovider -p no:faulthandler "$@"
