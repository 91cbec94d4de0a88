#!/usr/bin/env bash
# On a bare CUDA machine (nvcc, cmake, a C++ compiler; no network): builds the CUDA backend, runs the op tests on it, times every heavy
# op beside the ceilings of the device, and writes RESULTS/results.json and RESULTS/logs.tar.gz, anew after each step. With PyTorch, times
# the peer of each line; with Node and the built packages (a packed tree has both), whole training steps, generation and loss curves.
#   native/lab/gpu.sh [RESULTS] [STAGE…]     the stages below in their order, or those named; what an earlier call found is kept
# TREFOIL_GPU_SECONDS: the whole call ends in time for this many seconds. PYTHON, NODE: the interpreters. TREFOIL_GPU_WORK: the folder
# of logs and of what earlier calls found. A step that fails or runs out of time is recorded with the end of its log, and the next goes on.
set -uo pipefail
all_stages="build test bench peers memcheck racecheck initcheck synccheck addon training decode curves"
lab=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
native=$(dirname "$lab")
results=${1:-gpu-results}
[ $# -gt 0 ] && shift
stages=" ${*:-$all_stages} "
for stage in $stages; do
  [[ " $all_stages " == *" $stage "* ]] || { echo "gpu.sh: there is no stage \"$stage\": they are $all_stages" >&2; exit 2; }
done
seconds=${TREFOIL_GPU_SECONDS:-1000000}
jobs=${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}
python=${PYTHON:-python3}
node=${NODE:-$native/../bin/node}
[ -x "$node" ] || node=$(command -v node || true)
export PATH=$PATH:${CUDA_HOME:-/usr/local/cuda}/bin
build=$native/build-cuda
library=$build/libtrefoil_cuda.so
tests=$native/build-gpu/trefoil_tests
work=${TREFOIL_GPU_WORK:-$native/build-gpu/results}
mkdir -p "$results" "$work/steps" && results=$(cd "$results" && pwd) && work=$(cd "$work" && pwd) || exit 1
failed=0

has() { [[ $stages == *" $1 "* ]]; }
escape() { tr '\n\t' '  ' | tr -d '\000-\037' | sed 's/\\/\\\\/g; s/"/\\"/g'; }

# A list of one line per entry, as cuda_bench writes it, that was cut off: what is whole of it.
whole_json() { awk 'NR == 1 { print; next } /^  \{.*\},?$/ { if (kept != "") print kept ","; sub(/,$/, ""); kept = $0 } END { if (kept != "") print kept; print "]}" }' "$1"; }

# results.json from all that is known; moved into place whole.
write_results() {
  local separator="    " file
  {
    printf '{\n  "machine": "%s",\n' "$(escape <"$work/machine.txt")"
    printf '  "tests": "%s",\n  "steps": [\n' "$(tail -n 1 "$work/tests.txt" 2>/dev/null | escape)"
    for file in $(ls -tr "$work/steps"); do
      printf '%s%s' "$separator" "$(cat "$work/steps/$file")"
      separator=$',\n    '
    done
    printf '\n  ],\n  "found": {'
    separator=""
    for file in "$work"/*.json; do
      [ -s "$file" ] || continue
      printf '%s\n    "%s": ' "$separator" "$(basename "$file" .json)"
      cat "$file"
      separator=","
    done
    printf '\n  }\n}\n'
  } >"$work/results.part"
  mv "$work/results.part" "$results/results.json"
  tar -C "$work" -czf "$work/logs.part" --exclude='*.part' . 2>/dev/null
  mv "$work/logs.part" "$results/logs.tar.gz"
}

# record NAME STATUS SECONDS [LOG]: the log's last lines say why.
record() {
  local tail=""
  [ "$2" = ok ] || tail=$(tail -n 5 "${4:-/dev/null}" 2>/dev/null | cut -c 1-400 | escape)
  printf '{"name": "%s", "status": "%s", "seconds": %s, "tail": "%s"}' "$1" "$2" "$3" "$tail" >"$work/steps/${1//[^a-zA-Z0-9.-]/_}"
  echo "gpu.sh: $1: $2 ($3 s)${tail:+: $tail}"
  write_results
}
skip() { record "$1" "skipped: $2" 0; }
fail() { failed=1; record "$@"; }

# run NAME LIMIT LOG COMMAND…: at most LIMIT seconds, and no more than are left; output to LOG. The status is the command's.
run() {
  local name=$1 limit=$2 log=$3 start=$SECONDS left=$((seconds - SECONDS - 5)) code
  shift 3
  if [ $left -lt 5 ]; then fail "$name" "not started: no time was left" 0; return 1; fi
  [ $left -lt "$limit" ] && limit=$left
  timeout -k 5 "$limit" "$@" >"$log" 2>&1
  code=$?
  case $code in
    0) record "$name" ok $((SECONDS - start)) ;;
    124 | 137) fail "$name" "stopped after $limit s" $((SECONDS - start)) "$log" ;;
    *) fail "$name" "failed with status $code" $((SECONDS - start)) "$log" ;;
  esac
  return $code
}
# json NAME LIMIT COMMAND…: standard output becomes NAME.json, of a bench that was stopped the lines that are whole.
json() {
  local name=$1 limit=$2 out=$work/$1.json status
  shift 2
  run "$name" "$limit" "$work/$name.log" bash -c 'out=$1; shift; exec "$@" >"$out.part"' _ "$out" "$@"
  status=$?
  if [ $status -eq 0 ]; then mv "$out.part" "$out"
  elif head -n 1 "$out.part" 2>/dev/null | grep -q '"lines": \[$'; then whole_json "$out.part" >"$out"
  fi
  rm -f "$out.part"
  write_results
  return $status
}

# PyTorch's wheels bring cuBLASLt along where the system has none.
if [ -z "${TREFOIL_CUBLASLT:-}" ] && ! ldconfig -p 2>/dev/null | grep -q 'libcublasLt\.so\.1[23]'; then
  found=$(ls "${CUDA_HOME:-/usr/local/cuda}"/lib64/libcublasLt.so.1[23] 2>/dev/null | tail -n 1)
  [ -n "$found" ] || found=$("$python" -c 'import glob, importlib.util, os
packages = os.path.dirname(importlib.util.find_spec("torch").submodule_search_locations[0])
print(*sorted(glob.glob(packages + "/nvidia/*/lib/libcublasLt.so.1[23]"))[-1:])' 2>/dev/null)
  [ -n "$found" ] && export TREFOIL_CUBLASLT=$found
fi

{
  nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,memory.total --format=csv,noheader || echo "no nvidia-smi"
  { nvcc --version || echo "no nvcc"; } | tail -n 2
  cmake --version | head -n 1
  c++ --version | head -n 1
  echo "cuBLASLt: ${TREFOIL_CUBLASLT:-as the loader finds it}; Node: ${node:-none}"
} >"$work/machine.txt" 2>/dev/null
write_results

# For this device alone: a third of the time.
case $(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1) in
  9.0) export CUDAARCHS=${CUDAARCHS:-90a-real} ;;
  8.*) export CUDAARCHS=${CUDAARCHS:-80-real} ;;
esac
# A warning of a compiler that these sources have not met must not cost the session.
if has build; then
  if ! command -v nvcc >/dev/null || ! command -v cmake >/dev/null; then
    fail build "nvcc or cmake is not on PATH; add the CUDA toolkit's bin folder, or install cmake" 0
  else
    run "build cuda" 1800 "$work/build-cuda.log" bash -c "cmake -S '$native/src/cuda' -B '$build' && cmake --build '$build' --parallel $jobs"
    run "build tests" 1800 "$work/build-tests.log" bash -c "cmake -S '$native' -B '$native/build-gpu' && cmake --build '$native/build-gpu' --parallel $jobs --target trefoil_tests"
  fi
fi
built=$([ -e "$library" ] && [ -x "$tests" ] && echo yes)

if has test; then
  if [ -n "$built" ]; then
    # A test that loses the device, or does not end, costs a process and not the tests after it. Every op in f32 and bf16 first; then the
    # products once more by cuBLASLt (the line above used it if it was found), and by our own kernels; last what has never run: wgmma.
    run "op tests" 500 "$work/tests.txt" "$tests" --backend="$library" --seconds=60
    run "op tests, own products" 120 "$work/tests-own.txt" env TREFOIL_MATMUL=own "$tests" --backend="$library" --seconds=60 cuda_bf16
    run "op tests, cuBLASLt" 120 "$work/tests-cublaslt.txt" env TREFOIL_MATMUL=cublaslt "$tests" --backend="$library" --seconds=60 cuda_bf16
    run "op tests, wgmma" 120 "$work/tests-wgmma.txt" env TREFOIL_MATMUL=own TREFOIL_CUDA_WGMMA=1 "$tests" --backend="$library" --seconds=30 cuda_bf16
  else
    skip test "nothing was built"
  fi
fi

if has bench; then
  if [ -x "$build/cuda_bench" ] && [ -e "$library" ]; then
    json bench-bf16 900 "$build/cuda_bench" "$library" --precision=bf16
    json bench-bf16-own 300 env TREFOIL_MATMUL=own "$build/cuda_bench" "$library" matmul --precision=bf16
    json bench-bf16-wgmma 600 env TREFOIL_MATMUL=own TREFOIL_CUDA_WGMMA=1 "$build/cuda_bench" "$library" matmul "moe layer" attention linear_cross_entropy --precision=bf16
    for tile in 128 256 256x2; do
      json bench-bf16-wgmma-$tile 120 env TREFOIL_MATMUL=own TREFOIL_CUDA_WGMMA=$tile "$build/cuda_bench" "$library" matmul "moe layer" --precision=bf16
    done
    json bench-f32 900 "$build/cuda_bench" "$library" --precision=f32
  else
    skip bench "nothing was built"
  fi
fi

pytorch() { "$python" -c "import torch; assert torch.cuda.is_available()" 2>/dev/null; }
# Adds the peers to each line and keeps what it has found so far.
if has peers; then
  if ! pytorch; then skip peers "no PyTorch with CUDA here"
  else
    for name in bench-bf16 bench-bf16-own bench-bf16-wgmma; do
      [ -s "$work/$name.json" ] && run "peers of $name" 1800 "$work/peers-$name.log" "$python" "$lab/gpu_peers.py" "$work/$name.json"
    done
  fi
fi

# The checkers make kernels a hundred times slower; the ops that share no kernel with others come last in the list of tests.
for tool in memcheck racecheck initcheck synccheck; do
  has $tool || continue
  if command -v compute-sanitizer >/dev/null && [ -n "$built" ]; then
    run "compute-sanitizer $tool" 1800 "$work/$tool.txt" compute-sanitizer --tool $tool --error-exitcode 1 "$tests" --backend="$library"
  else
    skip $tool "no compute-sanitizer, or nothing was built"
  fi
done

packages=$([ -n "$node" ] && [ -e "$native/dist/index.js" ] && echo yes)
without="no Node, or the packages are not built: scripts/pack.mjs makes a tree that has both"
if has addon; then
  if [ -n "$packages" ]; then run addon 900 "$work/addon.log" env CMAKE_BUILD_PARALLEL_LEVEL="$jobs" "$node" "$native/scripts/build.mjs"
  else skip addon "$without"
  fi
fi
# MFU is a share of the datasheet's rate for dense bf16 products: mma.sync, which the bench measures, does not reach it on Hopper.
case $(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -n 1) in
  *H100*PCIe*) peak=756 ;;
  *H100*NVL*) peak=835 ;;
  *H100* | *H200* | *GH200*) peak=989 ;;
  *A100*) peak=312 ;;
  *) peak=$(sed -n 's/.*"mma_bf16_tflops": \([0-9.]*\).*/\1/p' "$work/bench-bf16.json" 2>/dev/null) ;;
esac
copy=$(sed -n 's/.*"copy_gbps": \([0-9.]*\).*/\1/p' "$work/bench-bf16.json" 2>/dev/null)
if has training; then
  for model in dense-1.1b moe-4x0.3b; do
    if [ -n "$packages" ]; then
      json "training-$model" 600 "$node" "$lab/training_bench.mjs" --device cuda --model $model ${peak:+--peak "$peak"}
      # With activations stored in f32, as they were before.
      json "training-$model-bf16-products" 600 env TREFOIL_PRECISION=bf16-products "$node" "$lab/training_bench.mjs" --device cuda --model $model ${peak:+--peak "$peak"}
    else skip "training-$model" "$without"
    fi
    if pytorch; then json "training-$model-pytorch" 600 "$python" "$lab/gpu_training_peer.py" --model $model ${peak:+--peak "$peak"}
    else skip "training-$model-pytorch" "no PyTorch with CUDA here"
    fi
  done
fi
if has decode; then
  if [ -n "$packages" ]; then json decode-1.1b 600 "$node" "$lab/decode_bench.mjs" --device cuda ${copy:+--bandwidth "$copy"}
  else skip decode "$without"
  fi
fi
if has curves; then
  if [ -n "$packages" ]; then json loss-curves 600 "$node" "$lab/loss_curves.mjs" --device cuda
  else skip curves "$without"
  fi
fi

echo "results: $results/results.json"
exit $failed
