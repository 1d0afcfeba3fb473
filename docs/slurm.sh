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

# Submitted in the repository, on a file system that all nodes see; so are the data and the run's directory. A model of
# Vaswani's base size for a corpus of your own, millions of pairs: 16 GPUs of 4,096 tokens make updates of 65,536. Multi30k
# is too small for two nodes.
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" \
    .venv/bin/python -u experiments/translation.py multi30k-raw \
    --train 'data/corpus/train.{}.gz' --validation 'data/corpus/valid.{}.gz' --test 'data/corpus/test.{}.gz' \
    --run runs/corpus \
    --vocab-size 32000 \
    --model.width 512 --model.feedforward-width 2048 --model.num-heads 8 --model.num-encoder-layers 6 \
    --model.num-decoder-layers 6 --model.unroll 6 --model.dropout-rate 0.1 --model.dtype bfloat16 \
    --tokens-per-device 4096 --accumulation 1 --rows-multiple 16 \
    --optimization.peak 0.0007 --optimization.warmup 4000 --updates 100000 --save-every 1000
status=$?

# 75: stopped by a signal and saved; it goes on. 1: out of memory, or an error with its traceback. 2: a mistake that a person has
# to mend. Both end the job. Anything else, such as a process that was killed, is tried again, ten times.
if [ "$status" -eq 75 ] || { [ "$status" -gt 2 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 10 ]; }; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
