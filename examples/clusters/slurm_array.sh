#!/bin/bash
# One run for each learning rate, each on one GPU: a job array. `pealm runs /shared/runs` lists them.
#
#   sbatch slurm_array.sh gpt2 --preset medium --input.npy-shards /shared/fineweb
#SBATCH --job-name=pealm-rates
#SBATCH --array=0-3
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --output=pealm-%A-%a.log
set -euo pipefail

rates=(3e-4 6e-4 1.2e-3 2.4e-3)
rate=${rates[$SLURM_ARRAY_TASK_ID]}
exec python -m pealm train "$@" --lr "$rate" --out "${RUNS:-/shared/runs}/rate-$rate"
