#!/usr/bin/env bash
# What one GPU says about the INT4 kernels, in at most 8 minutes. Run in the repository's root.
#
#   make gpu-prepare     anywhere: compiles the kernels with the pinned triton into .gpu/cubins (2 MB)
#   make gpu-check       on the GPU machine, .gpu carried along: all steps, the most valuable first
#   benchmarks/gpu/gpu_check.sh jit cubin ...    only these
#
# Needs python3 with torch and triton; safetensors, transformers, tokenizers, jinja2, requests,
# huggingface_hub, PyYAML for the last steps. Nothing is installed and nothing is fetched. Each step
# is a process with a limit of its own and none stops the others. $OUT (default: gpu-out) gets
# gpu_check.json and gpu_check.log after every step, so a killed run still tells what it knew, and
# hardware.json, the record with this run: copy it to build/engines/tensorrt_llm/data and commit it.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/path" "$work/results"
# The package is the repository's root itself: a link gives it its name. Its rooms (build, files,
# spec ...) must never be found as top-level modules, so the current directory stays off the path.
ln -s "$root" "$work/path/nemotron_deploy"
export PYTHONPATH="$work/path${PYTHONPATH:+:$PYTHONPATH}" PYTHONSAFEPATH=1 PYTHONDONTWRITEBYTECODE=1
export PYTHONUNBUFFERED=1 TRITON_CACHE_DIR="$work/triton" TRITON_DEFAULT_FP_FUSION=1
export GPU_CHECK_RESULTS="$work/results" GPU_CHECK_STORE="$root/.gpu/cubins" TOKENIZERS_PARALLELISM=false
export GPU_CHECK_OUT=${OUT:-$root/gpu-out}
check=("$python" -m nemotron_deploy.benchmarks.gpu.check)
unset TRITON_INTERPRET
if [ "${1:-}" = prepare ]; then
    "${check[@]}" prepare "$root/.gpu/cubins"
    exit
fi
OUT=$GPU_CHECK_OUT
mkdir -p "$OUT"
[ -z "${GPU_CHECK_INTERPRET:-}" ] || export TRITON_INTERPRET=1  # to try this script without a GPU (GPU_CHECK_PATIENCE=10 stretches the limits)
whole=${GPU_CHECK_SECONDS:-480}
begun=$SECONDS
step() {  # name limit [prefix...]
    local name=$1 limit=$(($2 * ${GPU_CHECK_PATIENCE:-1})) left=$((whole - SECONDS + begun)) status
    shift 2
    [ "$left" -gt 5 ] || { echo "{\"step\": \"$name\", \"verdict\": \"no time left\"}" >"$work/results/$name.json"; return; }
    [ "$limit" -lt "$left" ] || limit=$left
    echo "== $name (at $((SECONDS - begun)) s, at most $limit s)" | tee -a "$OUT/gpu_check.log"
    local at=$SECONDS
    timeout -k 5 "$limit" "$@" "${check[@]}" "$name" >>"$OUT/gpu_check.log" 2>&1
    status=$?
    "${check[@]}" merge "$OUT/gpu_check.json" "$name" "$status" $((SECONDS - at)) "$OUT/gpu_check.log"
}
for name in ${@:-environment jit cubin graph floor bench kernels golden quantize sweep ncu sanitize quantize_cpu}; do
    case $name in
        environment) step environment 30 ;;
        jit) step jit 120 ;;
        cubin) step cubin 45 ;;
        graph) step graph 60 ;;
        floor) step floor 60 ;;
        bench) step bench 110 ;;
        kernels) step kernels 50 ;;
        golden) step golden 50 ;;
        quantize) step quantize 60 ;;
        sweep) step sweep 100 ;;
        ncu) command -v ncu >/dev/null && step ncu 60 ncu --clock-control none --target-processes all \
                --section SpeedOfLight --section Occupancy --section WarpStateStats --section LaunchStats \
                --section MemoryWorkloadAnalysis --log-file "$work/results/ncu.csv" -k "regex:grouped|combine|place" -c 24 --csv --page details ;;
        sanitize) command -v compute-sanitizer >/dev/null && step sanitize 60 compute-sanitizer --tool memcheck --print-limit 5 ;;
        quantize_cpu) step quantize_cpu 90 ;;
        *) echo "no step $name" >&2 ;;
    esac
done
cp "$work"/results/*.csv "$OUT"/ 2>/dev/null
"${check[@]}" table "$OUT/gpu_check.json"
