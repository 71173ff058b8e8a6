# shellcheck shell=bash
# Where the heavy stages run: run.py on this machine, slurm.py on a cluster (flags in conf/slurm.yaml), e.g.
#   train_cmd="slurm.py --mem 16G --gpu 1"
export train_cmd="run.py"
export decode_cmd="run.py"
