#!/bin/bash
# Train on several nodes under Slurm; a job that runs out of time or is preempted saves, is requeued and resumes.
#
#   sbatch slurm.sh gpt2 --preset medium --input.npy-shards /shared/fineweb --out /shared/runs/medium
#
# The arguments are those of `pealm train`. --out is needed, on a file system that all nodes share: the requeued job
# finds its run there. Slurm starts one process for each GPU; torchrun isn't needed.
#SBATCH --job-name=pealm
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=pealm-%j.log
# Five minutes before the end of its time, each process gets SIGUSR1; this script does not. pealm ends after the
# current step, with a checkpoint and the exit code 138 (128 + 10). When a job is preempted, it gets SIGTERM: 143.
#SBATCH --signal=USR1@300
set -uo pipefail

case " $* " in *" --out "* | *" --out="*) ;; *) echo "slurm.sh: --out RUN is needed, to resume after a requeue" >&2; exit 2 ;; esac

MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR MASTER_PORT=${MASTER_PORT:-$((20000 + SLURM_JOB_ID % 20000))}
export WORLD_SIZE=$SLURM_NTASKS LOCAL_WORLD_SIZE=$SLURM_NTASKS_PER_NODE

srun --kill-on-bad-exit=0 bash -c \
    'export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID; exec python -m pealm train "$@"' pealm "$@"
status=$?

# Slurm itself requeues a preempted job (143). Anything else is the end, good or bad.
if ((status == 138)); then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
