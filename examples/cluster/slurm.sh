#!/usr/bin/env bash
# A pre-training run under Slurm that survives time limits and preemption.
#
#   sbatch examples/cluster/slurm.sh vit-small-moco-v3 --data /data/photos --out /runs/photos
#
# One task per GPU, without torchrun, so that Slurm's signal reaches every process. Two minutes before the time limit, all
# processes save and exit with code 138. The job is then queued again, and the same command resumes the run.
#SBATCH --job-name=repre
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail

MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR MASTER_PORT=$((20000 + SLURM_JOB_ID % 40000))

# Gives every restart its own rendezvous store: a restarted job must not read the addresses of the previous one.
export TORCHELASTIC_RESTART_COUNT=${SLURM_RESTART_COUNT:-0}

srun bash -c '
  export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS LOCAL_RANK=$SLURM_LOCALID
  exec repre pretrain "$@"
' repre "$@"
code=$?

saved_codes=(138 143)   # 128 + SIGUSR1, 128 + SIGTERM
for saved in "${saved_codes[@]}"; do
  if [[ $code -eq $saved ]]; then
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
  fi
done
exit "$code"
