#!/bin/bash
# Everything once on a GPU, in under five minutes: tests, the pipeline on MiniLM, inference, training steps.
#
#   python benchmarks/gpu_inputs.py build/gpu        first, on a machine with a network (48 MB; git ignores build/)
#   bash benchmarks/gpu.sh [INPUTS [OUTPUT]]         then here, from the repository's root, with that folder
#
# INPUTS is build/gpu, OUTPUT is $OUT or benchmarks/results, unless they are given. It needs Python 3.12 with PyTorch,
# transformers, ONNX Runtime and what these bring; no network, no snakemake, no submitit, no OpenVINO. Packages that are
# missing are installed from INPUTS/wheels into a temporary folder. To carry INPUTS to a machine that gets a copy of the
# repository without ignored files, name build/gpu among the paths to carry.
#
# Every part has a limit in time, and one that fails or takes too long does not stop the others. The exit status is the
# number of parts that failed. OUTPUT gets a log of each part, and the JSON of both benchmarks.
#
# DEVICE=cpu runs every part at tiny sizes on the CPU, to see that all of them start.
set -u
cd "$(dirname "$0")/.."
DEVICE=${DEVICE:-cuda}
INPUTS=$(realpath "${1:-build/gpu}")
OUTPUT=${2:-${OUT:-benchmarks/results}}
PYTHON=${PYTHON:-python3}
# All parts together, in seconds; on a CPU, everything may take ten times as long.
ALL=285 SLOWER=1
[ "$DEVICE" = cpu ] && ALL=2850 SLOWER=10
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
mkdir -p "$OUTPUT"
export PYTHONPATH=workflow:$WORK/site PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
FAILED=0

# report NAME STATUS LIMIT: says how a part ended, with the end of its log.
report() {
  local said
  case $2 in
    0) said="done" ;;
    124 | 137) said="stopped after $3 s" ;;
    *) said="failed ($2)" ;;
  esac
  echo "== $1: $said, at $SECONDS s"
  tail -n 25 "$OUTPUT/gpu_$1.log"
}

# part NAME LIMIT COMMAND...: runs a part for at most so many seconds, and no longer than all parts may take.
part() {
  local name=$1 limit=$2 left=$((ALL - SECONDS))
  shift 2
  [ "$left" -lt "$limit" ] && limit=$((left > 1 ? left : 1))
  timeout --kill-after=5 $((limit * SLOWER)) "$@" >"$OUTPUT/gpu_$name.log" 2>&1
  local status=$?
  report "$name" "$status" $((limit * SLOWER))
  return "$status"
}

wheels() {
  for module in datasets pydantic; do
    "$PYTHON" -c "import $module" 2>/dev/null || missing=1
  done
  [ -z "${missing:-}" ] || "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --target "$WORK/site" "$INPUTS"/wheels/*.whl
}

tests() {
  if "$PYTHON" -c "import pytest" 2>/dev/null; then
    # Only files with such tests: others may need packages that are not here. None selected is no failure on a CPU.
    "$PYTHON" -m pytest -q -p no:cacheprovider -m gpu $(grep -l "mark\.gpu" tests/test_*.py)
  else
    echo "no pytest: only the products are compared with exact ones"
    (cd benchmarks && PYTHONPATH=../workflow:$WORK/site "$PYTHON" -c "import peak; print(peak.product_peak('$DEVICE'))")
  fi
}

# One fine-tuning, quantization, export, evaluation and profile, by the verbs of the command line.
pipeline() {
  set -e
  verb() { echo "-- $1"; "$PYTHON" -m intaglio "$@"; }
  local task model profile trained steps=100 batch=32 examples=1600 backends='"torch", "torch.compile"'
  [ "$DEVICE" = cpu ] && steps=2 batch=4 examples=64 backends='"torch"'
  task="{\"source\": {\"kind\": \"files\", \"train\": \"$INPUTS/sentences.csv\"}, \"text\": [\"text\"], \"label\": \"label\",
    \"labels\": [\"negative\", \"positive\"], \"max_train\": $examples, \"max_test\": $((examples / 4))}"
  model="{\"source\": {\"kind\": \"files\", \"path\": \"$INPUTS/minilm\"}}"
  profile="{\"batch_sizes\": [1, $batch], \"lengths\": [128], \"calls\": 10, \"devices\": [\"$DEVICE\"],
    \"headline\": [1, 128], \"backends\": [$backends]}"
  verb data --options "$task" --output "$WORK/data"
  verb model --options "$model" --output "$WORK/model"
  trained="--data $WORK/data --seed 1 --max-length 128"
  verb finetune --model "$WORK/model" $trained --work "$WORK/w1" --output "$WORK/float" \
    --options "{\"max_steps\": $steps, \"batch_size\": $batch, \"learning_rate\": 1e-4, \"epochs\": 1}"
  verb quantize --parent "$WORK/float" $trained --work "$WORK/w2" --output "$WORK/int" \
    --options "{\"max_steps\": $((steps / 2)), \"batch_size\": $batch, \"calibration_examples\": 64}"
  for variant in float int; do
    verb evaluate --checkpoint "$WORK/$variant" --data "$WORK/data" --max-length 128 --output "$WORK/evaluated-$variant"
    verb export --checkpoint "$WORK/$variant" --output "$WORK/export-$variant"
  done
  # The float model is timed beside it.
  verb profile --checkpoint "$WORK/int" --export "$WORK/export-int" --options "$profile" --output "$WORK/profile" \
    --baseline "$WORK/float" --baseline-export "$WORK/export-float"
  "$PYTHON" - "$WORK" <<'END'
import sys
from pathlib import Path

import pandas as pd

for variant in ("float", "int"):
    metrics = pd.read_parquet(Path(sys.argv[1], f"evaluated-{variant}", "metrics.parquet"))
    print(variant, metrics[["metric", "value"]].to_string(index=False), sep="\n")
latency = pd.read_parquet(Path(sys.argv[1], "profile", "latency.parquet"))
print(latency[["device", "backend", "batch_size", "length", "p50_ms", "peak_memory_mb"]].to_string(index=False))
END
}

export -f tests pipeline
export PYTHON DEVICE INPUTS WORK

nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader 2>/dev/null || echo "no nvidia-smi"
wheels
"$PYTHON" -c "import torch, transformers; print('torch', torch.__version__, 'transformers', transformers.__version__, 'GPU', torch.cuda.is_available())"

if [ "$DEVICE" = cuda ]; then
  INFERENCE=(--shape roberta-base --batch 32 --length 128 --padding both --seconds 45)
  STEP=(--steps 10 --no-port) COMPILED=(--shape minilm --precision bf16 --steps 10 --no-port --compile)
else
  INFERENCE=(--shape minilm --layers 1 --batch 2 --length 16 --rounds 2 --padding both --no-memory
    --only "torch float32" --only "torch.compile float32" --only "intaglio torch" --only "intaglio torch.compile")
  STEP=(--shape minilm --layers 1 --steps 2 --no-port) COMPILED=("${STEP[@]}" --compile)
fi
# Two parts that time nothing run beside each other.
part tests 70 bash -c tests &
TESTS=$!
part pipeline 110 bash -c pipeline || FAILED=$((FAILED + 1))
wait "$TESTS" || FAILED=$((FAILED + 1))
part step 35 "$PYTHON" benchmarks/qat_step.py --device "$DEVICE" "${STEP[@]}" --json "$OUTPUT" || FAILED=$((FAILED + 1))
part inference 130 "$PYTHON" benchmarks/integer_inference.py --device "$DEVICE" "${INFERENCE[@]}" --json "$OUTPUT" || FAILED=$((FAILED + 1))
part compiled_step 45 "$PYTHON" benchmarks/qat_step.py --device "$DEVICE" "${COMPILED[@]}" --json "$WORK/compiled.json" || FAILED=$((FAILED + 1))
echo "== $FAILED parts failed, $SECONDS s in all; logs and JSON in $OUTPUT"
exit "$FAILED"
