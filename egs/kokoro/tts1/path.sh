# shellcheck shell=bash
# Environment of the recipe. Sourced from any directory; finds the project from its own location.
SPEECHMTP_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
export SPEECHMTP_ROOT
export LC_ALL=C.UTF-8 PYTHONUTF8=1 OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

# An installed speechmtp is taken as it is; else the environment that `make setup` has made.
if ! command -v speechmtp > /dev/null && [[ -x $SPEECHMTP_ROOT/.venv/bin/speechmtp ]]; then
  PATH=$SPEECHMTP_ROOT/.venv/bin:$PATH
fi
export PATH=$SPEECHMTP_ROOT/recipes:$PATH
if [[ -z ${PYTHON:-} && -x $SPEECHMTP_ROOT/.venv/bin/python ]]; then
  PYTHON=$SPEECHMTP_ROOT/.venv/bin/python
fi
export PYTHON="${PYTHON:-python3}"
if ! "$PYTHON" -c 'import speechmtp' 2> /dev/null; then
  echo "path.sh: $PYTHON cannot import speechmtp; run 'make setup' in $SPEECHMTP_ROOT, or set PYTHON" >&2
  exit 2
fi
