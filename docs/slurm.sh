#!/bin/bash
# Trains on 1 to N nodes: sbatch docs/slurm.sh. Continues by itself when it is preempted or out of time.
#SBATCH --job-name=translation
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out

# Submitted in the repository, on a file system that all nodes see; so is the run's directory.
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" \
    .venv/bin/python -u experiments/translation.py multi30k \
    --run runs/multi30k-slurm \
    --rows-multiple 16 \
    --model.dtype bfloat16
status=$?

# 75: stopped by a signal and saved. 2: a mistake that a person has to mend. Anything else, such as a process that died or a
# signal outside the training itself, is tried again, ten times.
if [ "$status" -eq 75 ] || { [ "$status" -gt 2 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 10 ]; }; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
