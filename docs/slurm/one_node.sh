#!/bin/bash
#SBATCH --job-name=toplora
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-task=4
#SBATCH --cpus-per-task=32
#SBATCH --time=08:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append

# One node: toplora-train starts a process per GPU itself. Two minutes before the time is over SLURM
# sends SIGUSR1; the run ends the step it is in, writes a checkpoint and leaves with 143.
srun toplora-train recipe=llama3_commonsense adapter=toplora launch=ddp \
    output_dir="$HOME/runs/commonsense" resume=auto
code=$?

if [ "$code" -eq 143 ]; then
    scontrol requeue "$SLURM_JOB_ID" # the same script, which goes on from the checkpoint
fi
exit "$code"
