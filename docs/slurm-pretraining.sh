#!/bin/bash
# Pretrains a decoder of 1B parameters on one node, or of 8B on eight. Continues by itself when it is preempted or out of
# time:
#     sbatch --nodes=1 docs/slurm-pretraining.sh llama-1b
#     sbatch --nodes=8 docs/slurm-pretraining.sh llama-8b
#SBATCH --job-name=pretraining
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out

# Submitted in the repository, on a file system that all nodes see; so are the data, the cache of its tokens and the run's
# directory. Parameters, gradients and optimizer state are spread over all devices (fsdp). An update of 4 micro-batches is
# 8 GPUs x 8,192 tokens x 4 = 262,144 tokens on one node, and 2.1 million on eight. What it needs, before it starts:
#     python experiments/pretraining.py llama-8b --plan h100 --devices 64 --mesh.fsdp 64
preset=${1:-llama-1b}
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" \
    .venv/bin/python -u experiments/pretraining.py "$preset" \
    --train data/corpus --held-out 0.0005 --vocabulary data/bpe.model --model.vocab-size 0 \
    --text-cache data/tokens --run "runs/$preset" \
    --mesh.fsdp "$SLURM_NTASKS" --tokens-per-device 8192 --accumulation 4 \
    --updates 100000 --validate-every 1000 --save-every 500
status=$?

# 75: stopped by a signal and saved; it goes on. 1: out of memory, or an error with its traceback. 2: a mistake that a person has
# to mend. Both end the job. Anything else, such as a process that was killed, is tried again, ten times.
if [ "$status" -eq 75 ] || { [ "$status" -gt 2 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 10 ]; }; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
