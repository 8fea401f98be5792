#!/bin/sh
# Workers of a passel as a SLURM job: one on each node, until the work is done elsewhere, you cancel it, or the time is over.
#
#   export PASSEL_URL=https://coordinator.example.org:3001
#   export PASSEL_JOIN_TOKEN=join_…      # on the coordinator: passel token create --join --expires 7d
#   sbatch --nodes=8 slurm-join.sh
#
# Nodes need Passel (a virtual environment on a shared disk is fine: put its bin into PATH) and a way to the coordinator.
# It need not be reachable from outside: workers only connect, nobody connects to them.
#SBATCH --job-name=passel
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=60G
#SBATCH --time=08:00:00
#SBATCH --signal=TERM@300
# TERM five minutes before the end: workers finish what runs and take no more. A step that is cut off is run elsewhere.
set -eu

: "${PASSEL_URL:?set it to the workers port of the coordinator, like https://coordinator:3001}"
: "${PASSEL_JOIN_TOKEN:?set it to a join token: passel token create --join}"
export PASSEL_URL PASSEL_JOIN_TOKEN

# A node that fails must not take the others along. Identity and cache go to the node's own disk.
exec srun --kill-on-bad-exit=0 sh -c '
  exec passel join "$PASSEL_URL" \
    --name "$(uname -n)-$SLURM_JOB_ID" \
    --home "${TMPDIR:-/tmp}/passel-$SLURM_JOB_ID" \
    --workers "$SLURM_CPUS_PER_TASK" \
    --memory "$((SLURM_MEM_PER_NODE * 9 / 10))"
'
