# shellcheck shell=bash
# Where the heavy stages run: run.py on this machine, slurm.py on a cluster, e.g. train_cmd="slurm.py --mem 8G"
export train_cmd="run.py"
