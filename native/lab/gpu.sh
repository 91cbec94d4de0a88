#!/usr/bin/env bash
# On a bare CUDA machine (nvcc, cmake, a C++ compiler; no network, no Node): builds the CUDA backend, runs the op tests on it, times every
# heavy op beside the ceilings of the device, and writes RESULTS/results.json. With PyTorch, times the peer of each line in the same run;
# with Node (the packed tree has it), whole training steps. A step that fails is recorded and the next one goes on.
#   native/lab/gpu.sh [RESULTS]    TREFOIL_GPU_STEPS="build test sanitize bench peers training" chooses steps; PYTHON names the interpreter,
#                                  NODE the program that runs training steps.
set -uo pipefail
lab=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
native=$(dirname "$lab")
results=${1:-gpu-results}
steps=" ${TREFOIL_GPU_STEPS:-build test sanitize bench peers training} "
jobs=${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}
python=${PYTHON:-python3}
node=${NODE:-$native/../bin/node}
[ -x "$node" ] || node=$(command -v node || true)
mkdir -p "$results" && results=$(cd "$results" && pwd) || exit 1
build=${TREFOIL_GPU_BUILD:-$native/build-gpu}
library=$build/cuda/libtrefoil_cuda.so
tests=$build/cpu/trefoil_tests
failed=0
records=()

has() { [[ $steps == *" $1 "* ]]; }
escape() { tr '\n\t' '  ' | tr -d '\000-\037' | sed 's/\\/\\\\/g; s/"/\\"/g'; }
# record NAME STATUS SECONDS [LOG]: the log's last lines say why.
record() {
  local tail=""
  [ "$2" = ok ] || tail=$(tail -n 5 "${4:-/dev/null}" 2>/dev/null | cut -c 1-400 | escape)
  records+=("{\"name\": \"$1\", \"status\": \"$2\", \"seconds\": $3, \"tail\": \"$tail\"}")
  echo "gpu.sh: $1: $2 ($3 s)"
}
# run NAME LIMIT LOG COMMAND…: at most LIMIT seconds, output to LOG. The status is the command's.
run() {
  local name=$1 limit=$2 log=$3 start=$SECONDS code
  shift 3
  timeout "$limit" "$@" >"$log" 2>&1
  code=$?
  if [ $code -eq 0 ]; then record "$name" ok $((SECONDS - start))
  else
    failed=1
    [ $code -eq 124 ] && record "$name" "stopped after $limit s" $((SECONDS - start)) "$log" || record "$name" "failed with status $code" $((SECONDS - start)) "$log"
  fi
  return $code
}
skip() { record "$1" "skipped: $2" 0; }
# bench FILE ARGUMENT…: its standard output is JSON, and is kept only where it is whole.
bench() {
  local file=$1
  shift
  run "bench $(basename "$file" .json)" 900 "$results/bench.log" bash -c 'out=$1; shift; "$@" >"$out.part" && mv "$out.part" "$out"' _ "$file" "$@"
}

{
  nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,memory.total --format=csv,noheader || echo "no nvidia-smi"
  { nvcc --version || echo "no nvcc"; } | tail -n 2
} >"$results/machine.txt" 2>/dev/null

if has build; then
  if command -v nvcc >/dev/null && command -v cmake >/dev/null; then
    run "build cuda" 1800 "$results/build-cuda.log" bash -c "cmake -S '$native/src/cuda' -B '$build/cuda' && cmake --build '$build/cuda' --parallel $jobs"
    run "build tests" 1800 "$results/build-tests.log" bash -c "cmake -S '$native' -B '$build/cpu' && cmake --build '$build/cpu' --parallel $jobs --target trefoil_tests"
  else
    failed=1
    skip build "nvcc or cmake is not on PATH; add the CUDA toolkit's bin folder, or install cmake"
  fi
fi

if has test; then
  if [ -e "$library" ] && [ -x "$tests" ]; then
    run "op tests" 900 "$results/tests.txt" "$tests" --backend="$library"
    # Products by cuBLASLt where it is, and by our own kernels; the line above used the library if it was found.
    run "op tests, own products" 300 "$results/tests-own.txt" env TREFOIL_MATMUL=own "$tests" --backend="$library" cuda_bf16
    run "op tests, wgmma" 300 "$results/tests-wgmma.txt" env TREFOIL_MATMUL=own TREFOIL_CUDA_WGMMA=1 "$tests" --backend="$library" cuda_bf16
    run "op tests, cuBLASLt" 300 "$results/tests-cublaslt.txt" env TREFOIL_MATMUL=cublaslt "$tests" --backend="$library" cuda_bf16
  else
    skip test "nothing was built"
  fi
fi

# The checkers make kernels a hundred times slower; most of the time is the references on the CPU.
if has sanitize; then
  if command -v compute-sanitizer >/dev/null && [ -e "$library" ] && [ -x "$tests" ]; then
    for tool in memcheck racecheck initcheck synccheck; do
      run "compute-sanitizer $tool" 900 "$results/$tool.txt" compute-sanitizer --tool $tool --error-exitcode 1 "$tests" --backend="$library"
    done
  else
    skip sanitize "no compute-sanitizer, or nothing was built"
  fi
fi

if has bench; then
  if [ -x "$build/cuda/cuda_bench" ] && [ -e "$library" ]; then
    bench "$results/bench-bf16.json" "$build/cuda/cuda_bench" "$library" --precision=bf16
    bench "$results/bench-bf16-own.json" env TREFOIL_MATMUL=own "$build/cuda/cuda_bench" "$library" matmul --precision=bf16
    bench "$results/bench-bf16-wgmma.json" env TREFOIL_MATMUL=own TREFOIL_CUDA_WGMMA=1 "$build/cuda/cuda_bench" "$library" matmul --precision=bf16
    bench "$results/bench-f32.json" "$build/cuda/cuda_bench" "$library" --precision=f32
  else
    skip bench "nothing was built"
  fi
fi

if has peers; then
  if ! "$python" -c "import torch; assert torch.cuda.is_available()" 2>/dev/null; then skip peers "no PyTorch with CUDA here"
  else
    for file in "$results"/bench-bf16.json "$results"/bench-bf16-own.json "$results"/bench-bf16-wgmma.json; do
      [ -s "$file" ] && run "peers $(basename "$file" .json)" 1800 "$results/peers.log" "$python" "$lab/gpu_peers.py" "$file"
    done
  fi
fi

if has training; then
  if [ -n "$node" ] && [ -e "$native/dist/index.js" ]; then
    peak=$(sed -n 's/.*"mma_bf16_tflops": \([0-9.]*\).*/\1/p' "$results/bench-bf16.json" 2>/dev/null)
    for model in dense-1.1b moe-4x0.3b; do
      run "training $model" 900 "$results/training-$model.json" "$node" "$lab/training_bench.mjs" --device cuda --model $model ${peak:+--peak "$peak"}
    done
  else
    skip training "no Node, or the packages are not built"
  fi
fi

{
  printf '{\n  "machine": "%s",\n' "$(escape <"$results/machine.txt")"
  printf '  "tests": "%s",\n  "steps": [\n' "$(tail -n 1 "$results/tests.txt" 2>/dev/null | escape)"
  separator="    "
  for entry in "${records[@]+"${records[@]}"}"; do
    printf '%s%s' "$separator" "$entry"
    separator=$',\n    '
  done
  printf '\n  ],\n  "bench": {'
  separator=""
  for file in "$results"/bench-*.json "$results"/training-*.json; do
    [ -s "$file" ] && head -c 1 "$file" | grep -q '{' || continue
    printf '%s\n    "%s": ' "$separator" "$(basename "$file" .json)"
    cat "$file"
    separator=","
  done
  printf '\n  }\n}\n'
} >"$results/results.json"
echo "results: $results/results.json"
exit $failed
