#!/usr/bin/env bash
# On a bare CUDA machine (nvcc, cmake, a C++ compiler; no network, no Node): builds the CUDA backend, runs the op tests on it, times every
# heavy op beside the ceilings of the device, and writes RESULTS/*.json. With PyTorch, times the peer of each line in the same run.
#   native/lab/gpu.sh [RESULTS]    TREFOIL_GPU_STEPS="build test sanitize bench peers" chooses steps; PYTHON names the interpreter.
set -euo pipefail
lab=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
native=$(dirname "$lab")
results=${1:-gpu-results}
steps=" ${TREFOIL_GPU_STEPS:-build test sanitize bench peers} "
jobs=${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}
python=${PYTHON:-python3}
mkdir -p "$results"
results=$(cd "$results" && pwd)
build=${TREFOIL_GPU_BUILD:-$native/build-gpu}
library=$build/cuda/libtrefoil_cuda.so
has() { [[ $steps == *" $1 "* ]]; }

for tool in nvcc cmake; do
  command -v "$tool" >/dev/null || { echo "gpu.sh: $tool is not on PATH; add the CUDA toolkit's bin folder (nvcc) or install cmake" >&2; exit 1; }
done
nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,memory.total --format=csv,noheader >"$results/machine.txt" 2>&1 || true
nvcc --version | tail -n 2 >>"$results/machine.txt"

if has build; then
  start=$SECONDS
  cmake -S "$native/src/cuda" -B "$build/cuda" >"$results/build.log"
  cmake --build "$build/cuda" --parallel "$jobs" >>"$results/build.log" 2>&1 || { tail -n 40 "$results/build.log" >&2; exit 1; }
  cmake -S "$native" -B "$build/cpu" >>"$results/build.log"
  cmake --build "$build/cpu" --parallel "$jobs" --target trefoil_tests >>"$results/build.log" 2>&1 || { tail -n 40 "$results/build.log" >&2; exit 1; }
  echo "built in $((SECONDS - start)) s"
fi

failed=0
if has test; then
  "$build/cpu/trefoil_tests" --backend="$library" | tee "$results/tests.txt" || failed=1
fi

# The checkers make kernels a hundred times slower; most of the time is the references on the CPU.
if has sanitize && command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck initcheck; do
    timeout 900 compute-sanitizer --tool "$tool" --error-exitcode 1 "$build/cpu/trefoil_tests" --backend="$library" >"$results/$tool.txt" 2>&1 ||
      { echo "compute-sanitizer $tool: see $results/$tool.txt"; failed=1; }
    tail -n 1 "$results/$tool.txt"
  done
elif has sanitize; then
  echo "compute-sanitizer: not on this machine"
fi

if has bench; then
  for precision in bf16 f32; do
    "$build/cuda/cuda_bench" "$library" --precision=$precision >"$results/bench-$precision.json" || failed=1
  done
  if has peers && "$python" -c "import torch; assert torch.cuda.is_available()" 2>/dev/null; then
    "$python" "$lab/gpu_peers.py" "$results/bench-bf16.json" || failed=1
  else
    echo "peers: no PyTorch with CUDA here"
  fi
fi

{
  echo "{"
  echo "  \"machine\": \"$(tr '\n"' ' .' <"$results/machine.txt")\","
  echo "  \"tests\": \"$(tail -n 1 "$results/tests.txt" 2>/dev/null)\","
  echo "  \"bench\": {"
  separator=""
  for precision in bf16 f32; do
    [ -s "$results/bench-$precision.json" ] || continue
    printf '%s    "%s": ' "$separator" "$precision"
    cat "$results/bench-$precision.json"
    separator=","
  done
  echo "  }"
  echo "}"
} >"$results/results.json"
echo "results: $results/results.json"
exit $failed
