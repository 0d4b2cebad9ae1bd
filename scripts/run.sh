#!/usr/bin/env bash
# What the npm scripts call: makes the machine ready (scripts/setup.sh), then runs one of
#   test | test:long | demo | bench | coverage     with the remaining arguments.
# Plain bash, because in a fresh clone nothing else is there yet.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

command=${1:-}
shift || true
case "$command" in
  test | test:long | demo | bench | coverage) ;;
  *)
    echo 'usage: scripts/run.sh test | test:long | demo | bench | coverage [ARGUMENT...]' >&2
    exit 2
    ;;
esac

bash scripts/setup.sh

tsx=(node --import tsx)
case "$command" in
  test) exec node scripts/test.mjs "$@" ;;
  test:long) exec node scripts/test.mjs --long "$@" ;;
  demo) exec "${tsx[@]}" demo/main.ts "$@" ;;
  bench) exec "${tsx[@]}" test/bench/main.ts "$@" ;;
  coverage) exec "${tsx[@]}" --conditions source test/objects/coverage/main.ts "$@" ;;
esac
