#!/usr/bin/env bash
# On a bare CUDA machine (nvcc, cmake, a C++ compiler; no network): builds the CUDA backend, runs the op tests on it, times every heavy
# op beside the ceilings of the device, and writes RESULTS/results.json and RESULTS/logs.tar.gz, anew after each step. With PyTorch, times
# the peer of each line; with Node and the built packages (a packed tree has both), whole training steps, generation and loss curves.
#   native/lab/gpu.sh [RESULTS] [STAGE…]     the stages below in their order, or those named; what an earlier call found is kept
# TREFOIL_GPU_SECONDS: the whole call ends in time for this many seconds. PYTHON, NODE: the interpreters. TREFOIL_GPU_WORK: the folder
# of logs and of what earlier calls found. TREFOIL_GPU_SHARDS: processes that share the op tests (4). TREFOIL_GPU_TESTS: parts of the names of the
# tests that the checkers run (all). TREFOIL_GPU_ANYWAY: wgmma is measured where its tests failed, too. A step that fails or runs out of time
# is recorded with the end of its log, and the next goes on.
set -uo pipefail
all_stages="build test bench peers bench-f32 memcheck racecheck initcheck synccheck addon training decode curves training-peers"
lab=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
native=$(dirname "$lab")
results=${1:-gpu-results}
[ $# -gt 0 ] && shift
stages=" ${*:-$all_stages} "
for stage in $stages; do
  [[ " $all_stages " == *" $stage "* ]] || { echo "gpu.sh: there is no stage \"$stage\": they are $all_stages" >&2; exit 2; }
done
seconds=${TREFOIL_GPU_SECONDS:-1000000}
export shards=${TREFOIL_GPU_SHARDS:-4}
jobs=${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}
python=${PYTHON:-python3}
node=${NODE:-$native/../bin/node}
[ -x "$node" ] || node=$(command -v node || true)
export PATH=$PATH:${CUDA_HOME:-/usr/local/cuda}/bin
# A distribution's own nvcc on PATH is often older than the toolkit beside it.
if [ -z "${CUDACXX:-}" ] && [ -x "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" ]; then export CUDACXX=${CUDA_HOME:-/usr/local/cuda}/bin/nvcc; fi
if ! command -v make >/dev/null && command -v ninja >/dev/null; then export CMAKE_GENERATOR=Ninja; fi
build=$native/build-cuda
library=$build/libtrefoil_cuda.so
tests=$native/build-gpu/trefoil_tests
work=${TREFOIL_GPU_WORK:-$native/build-gpu/results}
mkdir -p "$results" "$work/steps" && results=$(cd "$results" && pwd) && work=$(cd "$work" && pwd) || exit 1
failed=0

has() { [[ $stages == *" $1 "* ]]; }
# What is not ASCII goes: a character that is cut in two would be no JSON.
escape() { tr '\n\t' '  ' | LC_ALL=C tr -cd '\040-\176' | sed 's/\\/\\\\/g; s/"/\\"/g'; }

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
  # pax keeps the order of steps that one second saw.
  tar --format=pax -C "$work" -czf "$work/logs.part" --exclude='*.part' . 2>/dev/null
  mv "$work/logs.part" "$results/logs.tar.gz"
}

# record NAME STATUS SECONDS [LOG]: the first tests that failed, and the log's last lines, say why.
record() {
  local tail=""
  [ "$2" = ok ] || tail=$({ grep '^FAIL' "${4:-/dev/null}" | head -n 8; tail -n 5 "${4:-/dev/null}"; } 2>/dev/null | cut -c 1-400 | escape)
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
# The op tests, shared out among processes: their references are computed on the host, by one thread each.
in_shards() {
  local i code=0 processes=()
  for ((i = 0; i < shards; i++)); do
    "$@" "--shard=$i/$shards" &
    processes+=($!)
  done
  for i in "${processes[@]}"; do wait "$i" || code=1; done
  return $code
}
export -f in_shards
# run_tests NAME LIMIT LOG COMMAND…: the last line of the log counts all tests. The count is there even where a shard ran out of time.
run_tests() {
  local log=$3 code
  run "$1" "$2" "$log" bash -c 'in_shards "$@"' _ "${@:4}"
  code=$?
  awk -v shards="$shards" '/^[0-9]+ passed, [0-9]+ failed$/ { passed += $1; failed += $3; ended++ } END { print passed + 0 " passed, " failed + 0 " failed" (ended < shards ? ", and " shards - ended " of " shards " parts did not end" : "") }' "$log" >"$log.part" 2>/dev/null
  cat "$log.part" >>"$log" 2>/dev/null
  echo "gpu.sh:   $(cat "$log.part")"
  rm -f "$log.part"
  write_results
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
  { "${CUDACXX:-nvcc}" --version || echo "no nvcc"; } | tail -n 2
  cmake --version | head -n 1
  c++ --version | head -n 1
  echo "cuBLASLt: ${TREFOIL_CUBLASLT:-as the loader finds it}; Node: ${node:-none}; $(uname -r), $(nproc) processors"
} >"$work/machine.txt" 2>/dev/null
write_results

# For this device alone: a third of the time.
case $(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1) in
  9.0) export CUDAARCHS=${CUDAARCHS:-90a-real} ;;
  8.*) export CUDAARCHS=${CUDAARCHS:-80-real} ;;
esac
# A warning of a compiler that these sources have not met must not cost the session.
if has build; then
  if ! command -v "${CUDACXX:-nvcc}" >/dev/null || ! command -v cmake >/dev/null; then
    fail build "nvcc or cmake is not on PATH; add the CUDA toolkit's bin folder, or install cmake" 0
  else
    run "build cuda" 1800 "$work/build-cuda.log" bash -c "cmake -S '$native/src/cuda' -B '$build' -DTREFOIL_LINE_INFO=ON && cmake --build '$build' --parallel $jobs"
    run "build tests" 1800 "$work/build-tests.log" bash -c "cmake -S '$native' -B '$native/build-gpu' && cmake --build '$native/build-gpu' --parallel $jobs --target trefoil_tests"
  fi
fi
# What was built, for a later call on another such machine: `tar xzf built.tar.gz -C native` puts it where this script looks.
save_built() {
  local file files=()
  for file in build-cuda/libtrefoil_cuda.so build-cuda/cuda_bench build-gpu/trefoil_tests build/Release/trefoil.node; do
    [ -e "$native/$file" ] && files+=("$file")
  done
  [ ${#files[@]} -eq 0 ] || tar -C "$native" -czf "$results/built.tar.gz" "${files[@]}"
}
if has build; then save_built; fi
built=$([ -e "$library" ] && [ -x "$tests" ] && echo yes)

if has test; then
  if [ -n "$built" ]; then
    # A test that loses the device, or does not end, costs a process and not the tests after it. Every op in f32 and bf16 first; then the
    # products once more by cuBLASLt (the line above used it if it was found), and by our own kernels; last what has never run: wgmma, in one
    # process, as a kernel that does not end slows down those beside it.
    run_tests "op tests" 500 "$work/tests.txt" "$tests" --backend="$library" --seconds=60
    run_tests "op tests, own products" 120 "$work/tests-own.txt" env TREFOIL_MATMUL=own "$tests" --backend="$library" --seconds=60 cuda_bf16
    run_tests "op tests, cuBLASLt" 120 "$work/tests-cublaslt.txt" env TREFOIL_MATMUL=cublaslt "$tests" --backend="$library" --seconds=60 cuda_bf16
    shards=1 run_tests "op tests, wgmma" 240 "$work/tests-wgmma.txt" env TREFOIL_MATMUL=own TREFOIL_CUDA_WGMMA=1 "$tests" --backend="$library" --seconds=20 cuda_bf16
    # Blocks of this kernel wait for each other.
    shards=1 run_tests "op tests, gradient in one pass" 120 "$work/tests-one-pass.txt" env TREFOIL_CUDA_WGMMA=1 TREFOIL_CUDA_ATTENTION_GRADIENT=one-pass "$tests" --backend="$library" --seconds=20 in_one_pass
  else
    skip test "nothing was built"
  fi
fi

# Did that step fail, and is nothing to be measured in spite of it?
failed_before() { [ -z "${TREFOIL_GPU_ANYWAY:-}" ] && [ -e "$work/steps/$1" ] && ! grep -q '"status": "ok"' "$work/steps/$1"; }
if has bench; then
  if [ -x "$build/cuda_bench" ] && [ -e "$library" ]; then
    json bench-bf16 900 "$build/cuda_bench" "$library" --precision=bf16
    json bench-bf16-own 300 env TREFOIL_MATMUL=own "$build/cuda_bench" "$library" matmul --precision=bf16
    # Kernels that do not end cost their line's time each: not where tests of theirs have failed, unless it is asked for.
    if failed_before op_tests__wgmma; then
      skip bench-bf16-wgmma "op tests with wgmma failed; TREFOIL_GPU_ANYWAY=1 measures all the same"
    else
      json bench-bf16-wgmma 600 env TREFOIL_MATMUL=own TREFOIL_CUDA_WGMMA=1 "$build/cuda_bench" "$library" matmul "moe layer" attention linear_cross_entropy --precision=bf16 --line-seconds=15
      for tile in 128 256 256x2; do
        json bench-bf16-wgmma-$tile 120 env TREFOIL_MATMUL=own TREFOIL_CUDA_WGMMA=$tile "$build/cuda_bench" "$library" matmul "moe layer" --precision=bf16 --line-seconds=15
      done
    fi
    if failed_before op_tests__gradient_in_one_pass; then
      skip bench-bf16-one-pass "op tests of the gradient in one pass failed; TREFOIL_GPU_ANYWAY=1 measures all the same"
    else
      json bench-bf16-one-pass 300 env TREFOIL_CUDA_WGMMA=1 TREFOIL_CUDA_ATTENTION_GRADIENT=one-pass "$build/cuda_bench" "$library" attention_grad --precision=bf16 --line-seconds=15
    fi
  else
    skip bench "nothing was built"
  fi
fi

pytorch() { "$python" -c "import torch; assert torch.cuda.is_available()" 2>/dev/null; }
# Adds the peers to each line and keeps what it has found so far.
if has peers; then
  if ! pytorch; then skip peers "no PyTorch with CUDA here"
  else
    lines=()
    for name in bench-bf16 bench-bf16-own bench-bf16-wgmma bench-bf16-one-pass; do [ -s "$work/$name.json" ] && lines+=("$work/$name.json"); done
    if [ ${#lines[@]} -eq 0 ]; then skip peers "no bench has run"
    else run peers 1800 "$work/peers.log" "$python" "$lab/gpu_peers.py" "${lines[@]}"
    fi
  fi
fi

if has bench-f32; then
  if [ -x "$build/cuda_bench" ] && [ -e "$library" ]; then json bench-f32 900 "$build/cuda_bench" "$library" --precision=f32
  else skip bench-f32 "nothing was built"
  fi
fi

# The checkers make kernels up to a hundred times slower. A test that takes two minutes fails alone.
read -r -a parts <<<"${TREFOIL_GPU_TESTS:-}"
for tool in memcheck racecheck initcheck synccheck; do
  has $tool || continue
  if command -v compute-sanitizer >/dev/null && [ -n "$built" ]; then
    run_tests "compute-sanitizer $tool${TREFOIL_GPU_TESTS:+, $TREFOIL_GPU_TESTS}" 1800 "$work/$tool${TREFOIL_GPU_TESTS:+-${TREFOIL_GPU_TESTS//[^a-zA-Z0-9]/-}}.txt" \
      compute-sanitizer --tool $tool --target-processes all --error-exitcode 1 "$tests" --backend="$library" --seconds=120 ${parts[@]+"${parts[@]}"}
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
  save_built
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
  done
fi
if has decode; then
  if [ -n "$packages" ]; then
    json decode-1.1b 600 "$node" "$lab/decode_bench.mjs" --device cuda ${copy:+--bandwidth "$copy"}
    # Our own products in clusters, and kernels that begin before those before them have ended: each beside the same without it.
    for pdl in 0 1; do
      json "decode-1.1b-own-pdl-$pdl" 300 env TREFOIL_MATMUL=own TREFOIL_CUDA_PDL=$pdl "$node" "$lab/decode_bench.mjs" --device cuda ${copy:+--bandwidth "$copy"}
    done
    json decode-1.1b-own-without-clusters 300 env TREFOIL_MATMUL=own TREFOIL_CUDA_CLUSTERS=0 "$node" "$lab/decode_bench.mjs" --device cuda ${copy:+--bandwidth "$copy"}
  else skip decode "$without"
  fi
fi
if has curves; then
  if [ -n "$packages" ]; then json loss-curves 600 "$node" "$lab/loss_curves.mjs" --device cuda
  else skip curves "$without"
  fi
fi

if has training-peers; then
  for model in dense-1.1b moe-4x0.3b; do
    if pytorch; then json "training-$model-pytorch" 600 "$python" "$lab/gpu_training_peer.py" --model $model ${peak:+--peak "$peak"}
    else skip "training-$model-pytorch" "no PyTorch with CUDA here"
    fi
  done
fi

echo "results: $results/results.json"
exit $failed
