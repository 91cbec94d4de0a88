#!/usr/bin/env bash
# native/lab/registers.sh [ARCHITECTURE] [FILE…]: compiles kernel files (all of them, or those named, such as norm.cu) for one architecture
# (90a) and prints what ptxas says of kernels that spill or keep a stack, and its warnings (C75..: wgmma products run one by one). No GPU
# is needed. Ends with 1 where there is a warning.
set -euo pipefail
cuda=$(cd "$(dirname "${BASH_SOURCE[0]}")/../src/cuda" && pwd)
architecture=${1:-90a}
[ $# -gt 0 ] && shift
cd "$cuda/kernels"
[ $# -gt 0 ] || set -- *.cu
object=$(mktemp)
trap 'rm -f "$object"' EXIT
status=0
for file; do
  nvcc -std=c++20 -O3 -arch=sm_"$architecture" -Xptxas -v --expt-relaxed-constexpr --extended-lambda -I .. -I ../../../include -x cu -c "$file" -o "$object" 2>&1 |
    c++filt | awk -v file="$file" '
      /\(C75[0-9][0-9]\)/ { print file ": " $0; warned = 1 }
      /Compiling entry function/ { split($0, part, "\047"); name = part[2] }
      /bytes stack frame/ { memory = $0; sub(/^ +/, "", memory) }
      / Used [0-9]+ registers/ { if (memory !~ /^0 bytes stack frame/) { match($0, /Used [0-9]+ registers/); print file ": " name ": " substr($0, RSTART, RLENGTH) ", " memory } }
      / error/ { print; warned = 1 }
      END { exit warned }' || status=1
done
exit $status
