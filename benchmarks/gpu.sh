#!/bin/sh
# Everything that needs a CUDA GPU, in one go: builds for this GPU into the current Python, runs the GPU tests and
# compute-sanitizer, measures whole images, the stages and gdn, and writes one JSON file under benchmarks/results/. For a
# machine with a GPU, nvcc and a CUDA build of torch:
#
#   sh benchmarks/gpu.sh            PYTHON=python3.12 to name another interpreter
#
# Exits with 1 when a check failed; the JSON says which. The figures are written either way.
set -u
cd "$(dirname "$0")/.." || exit 2
python=${PYTHON:-python}
results=benchmarks/results
mkdir -p "$results"

if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "$python has no torch that sees a CUDA device" >&2
  exit 2
fi
# Only this GPU: all architectures take several times as long and show nothing more here.
TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-$("$python" -c '
import torch
print("%d.%d" % torch.cuda.get_device_capability())')}
export TORCH_CUDA_ARCH_LIST
name=$("$python" -c '
import datetime, re, torch
print(re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()), datetime.date.today(), sep="-")')

# Without its dependencies: pip must not replace the torch that is here.
"$python" -m pip install "setuptools>=77" "pybind11>=2.13" cmake ninja pytest numpy pillow safetensors scipy || exit 2
MEON_CUDA=on "$python" -m pip install --no-build-isolation --no-deps -e . || exit 2

failed=0
# record NAME COMMAND...: runs it, shows the end of what it prints, keeps all of that where it failed, and notes the
# outcome for the JSON.
notes=
record() {
  what=$1
  shift
  echo "== $what: $*"
  "$@" >"$results/$name-$what.log" 2>&1
  status=$?
  tail -n 15 "$results/$name-$what.log"
  if [ "$status" -eq 0 ]; then
    outcome=passed
    rm -f "$results/$name-$what.log"
  else
    outcome="failed-with-exit-code-$status"
    failed=1
  fi
  notes="$notes --note $what=$outcome"
}

record tests "$python" -m pytest tests/gpu tests/test_cuda_library.py -m "gpu or not gpu" -W default -q

sanitizer=$(command -v compute-sanitizer || true)
for candidate in "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer" /usr/local/cuda/bin/compute-sanitizer; do
  [ -z "$sanitizer" ] && [ -x "$candidate" ] && sanitizer=$candidate
done
if [ -n "$sanitizer" ]; then
  # torch hands out pieces of large blocks; without its cache every tensor is an allocation that memcheck knows.
  export PYTORCH_NO_CUDA_MEMORY_CACHING=1
  for tool in memcheck racecheck; do
    record "$tool" "$sanitizer" --tool "$tool" --error-exitcode 9 "$python" benchmarks/gpu.py --smoke
  done
  unset PYTORCH_NO_CUDA_MEMORY_CACHING
else
  echo "compute-sanitizer was not found; its checks are left out"
  notes="$notes --note compute-sanitizer=not-found"
fi

# $notes holds words without spaces, one argument each.
# shellcheck disable=SC2086
"$python" benchmarks/gpu.py --output "$results/$name.json" $notes || failed=1
exit "$failed"
