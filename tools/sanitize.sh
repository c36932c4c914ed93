#!/usr/bin/env bash
# Builds the core with the address and undefined-behaviour sanitizers beside the normal one, and
# runs the native tests on it. Leaks are not counted: the interpreter never frees its own.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$PWD/.venv/bin
site=build/sanitize/site
"$bin/cmake" -S . -B build/sanitize -G Ninja -DQWELL_SANITIZE=ON -DCMAKE_BUILD_TYPE=Debug \
  -DPython_EXECUTABLE="$bin/python" -Dnanobind_DIR="$("$bin/python" -m nanobind --cmake_dir)" \
  -DCMAKE_MAKE_PROGRAM="$bin/ninja" >/dev/null
"$bin/cmake" --build build/sanitize
rm -rf "$site" && mkdir -p "$site" && cp -r src/qwell "$site/" && rm -f "$site"/qwell/_core*.so
cp build/sanitize/_core*.so "$site/qwell/"
export ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1
# test_invariance compares bits over many long steps: the other tests walk the same code in a tenth of
# the time these builds would need for it.
# The editable install hooks imports ahead of PYTHONPATH: -S leaves it out, PYTHONPATH brings the rest.
LD_PRELOAD="$(${CXX:-c++} -print-file-name=libasan.so) $(${CXX:-c++} -print-file-name=libubsan.so) $(${CXX:-c++} -print-file-name=libstdc++.so)" \
  PYTHONPATH="$site:$("$bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["platlib"])'):." \
  "$bin/python" -S -m pytest -q -p no:cacheprovider tests/native --ignore=tests/native/test_invariance.py "$@"
