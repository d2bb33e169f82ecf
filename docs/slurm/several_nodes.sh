#!/bin/bash
#SBATCH --job-name=toplora
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=08:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append

# Several nodes: SLURM starts a process per GPU and gives each its rank. The run directory must be
# the same for all of them, on a shared file system.
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export MASTER_ADDR MASTER_PORT

srun --kill-on-bad-exit=1 bash -c '
    export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
    exec toplora-train recipe=llama3_commonsense adapter=toplora launch=fsdp2 \
        output_dir="$HOME/runs/commonsense" resume=auto
'
code=$?

if [ "$code" -eq 143 ]; then
    scontrol requeue "$SLURM_JOB_ID" # the same script, which goes on from the checkpoint
fi
exit "$code"
