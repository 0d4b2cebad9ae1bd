#!/usr/bin/env bash
# Makes this machine and this folder ready: Debian packages, npm packages, generated code, native parts, bundles.
# Does only what is missing or out of date, and then says so; everything it prints goes to stderr.
# Usage: scripts/setup.sh [--force]    (root, Debian or a relative of it)
set -Eeuo pipefail
exec 1>&2

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
stamps=$root/.setup-stamp

say() { printf 'setup: %s\n' "$*"; }
fail() {
  printf 'setup: %s\n' "$*"
  exit 1
}

[ "$(id -u)" = 0 ] || fail 'Ferry needs root: it traces processes and makes namespaces. Run it with "sudo".'
[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || fail "Ferry runs on Linux, x86-64 (this is $(uname -sm))."
command -v node >/dev/null || fail 'Node.js is missing: install Node 20.19 or later, with npm.'
command -v npm >/dev/null || fail 'npm is missing: install it together with Node 20.19 or later.'
node_version=$(node --version)
IFS=. read -r node_major node_minor _ <<<"${node_version#v}"
if [ "$node_major" -lt 20 ] || { [ "$node_major" = 20 ] && [ "$node_minor" -lt 19 ]; }; then
  fail "Node 20.19 or later is needed (this is $node_version)."
fi

# Two runs at the same time take turns; whoever comes second finds the work done.
exec 9>"$stamps.lock"
flock 9
if [ "${1:-}" = --force ]; then rm -f "$stamps".*.sum; fi

# ---- Debian packages -----------------------------------------------------------------------------------------
# Compiler and LZ4 for the native parts; runc and network tools for containers and hosts; Redis for the job queue;
# Redis, nginx and Python also as programs that the tests move.
debian=(gcc libc6-dev liblz4-dev openssl runc redis-server iproute2 nftables tcpdump nginx-light python3 procps util-linux)

missing_packages() {
  local installed
  installed=$(dpkg-query -W -f='${Package} ${db:Status-Status}\n' "${debian[@]}" 2>/dev/null || true)
  local name
  for name in "${debian[@]}"; do
    grep -qx "$name installed" <<<"$installed" || printf '%s\n' "$name"
  done
}

# Installing Redis or nginx must not start them: this answer to "may I start?" is the one Debian looks for. An
# answer that the machine already has is left as it is.
without_services() {
  local policy=/usr/sbin/policy-rc.d
  if [ -e "$policy" ]; then
    "$@"
    return
  fi
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
  local status=0
  "$@" || status=$?
  rm -f "$policy"
  return $status
}
trap 'say "failed at line $LINENO: $BASH_COMMAND"' ERR
trap 'if [ -n "${policy_is_ours:-}" ]; then rm -f /usr/sbin/policy-rc.d; fi' EXIT

apt_install() {
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
    -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 "$@" </dev/null
}

install_debian_packages() {
  local missing
  mapfile -t missing < <(missing_packages)
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null || fail "These programs are missing, and there is no apt-get to install them: ${missing[*]}"
  say "installing Debian packages: ${missing[*]}"
  local log
  log=$(mktemp)
  [ -e /usr/sbin/policy-rc.d ] || policy_is_ours=yes
  # The package lists may be absent or too old to be of use: then fetch them, once.
  if ! without_services apt_install "${missing[@]}" >"$log" 2>&1; then
    say 'fetching the package lists (apt-get update)'
    apt-get update -q >"$log" 2>&1 </dev/null || { cat "$log"; fail 'apt-get update failed.'; }
    without_services apt_install "${missing[@]}" >"$log" 2>&1 || {
      cat "$log"
      fail "apt-get install ${missing[*]} failed."
    }
  fi
  policy_is_ours=
  rm -f "$log"
}

# ---- what this folder needs ----------------------------------------------------------------------------------
sum_of() { # PATH...: one hash over names and contents of the files below
  local path existing=()
  for path in "$@"; do if [ -e "$path" ]; then existing+=("$path"); fi; done
  find "${existing[@]}" -type f \( -name '*.ts' -o -name '*.mjs' -o -name '*.json' -o -name '*.c' -o -name '*.h' -o -name '*.S' \
    -o -name '*.ld' -o -name '*.sh' -o -name '*.proto' \) -not -path '*/generated/*' -not -path '*/build/*' \
    -not -path '*/node_modules/*' -not -path '*/test/*' -print0 |
    LC_ALL=C sort -z | xargs -0 -r sha256sum | sha256sum | cut -c1-64
}

fresh() { # PART SUM: is PART as it was built from SUM?
  [ -f "$stamps.$1.sum" ] && [ "$(cat "$stamps.$1.sum")" = "$2" ]
}

install_npm_packages() {
  local sum stamp=node_modules/.ferry-setup
  sum="$node_major $(cat package.json package-lock.json packages/*/package.json services/*/package.json | sha256sum | cut -c1-64)"
  if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$sum" ]; then return; fi
  if node scripts/npm-state.mjs; then
    printf '%s' "$sum" >"$stamp"
    return
  fi
  say 'installing npm packages (npm ci)'
  # No dependency needs its install script here, and none gets to run one.
  local options=(--ignore-scripts --no-audit --no-fund --loglevel=error) log
  log=$(mktemp)
  if ! npm ci "${options[@]}" >"$log" 2>&1 </dev/null; then
    # A lock file made where the registry lacks other platforms' binaries does not satisfy "npm ci".
    say 'npm ci does not accept package-lock.json; trying npm install with the same versions'
    npm install --no-save "${options[@]}" </dev/null || {
      cat "$log"
      fail 'installing the npm packages failed.'
    }
  fi
  rm -f "$log"
  printf '%s' "$sum" >"$stamp"
}

build() { # PART SUM TEXT: builds one part, and remembers from what
  local part=$1 sum=$2
  say "$3"
  rm -f "$stamps.$part.sum"
  node scripts/build.mjs "$part" || fail "building $part failed."
  printf '%s' "$sum" >"$stamps.$part.sum"
}

all_present() {
  local file
  for file in "$@"; do [ -e "$file" ] || return 1; done
}

bundles() {
  if [ -e services/cli/src/main.ts ]; then echo dist/ferry.mjs; fi
  if [ -e services/agent/src/main.ts ]; then echo dist/ferry-agent.mjs; fi
  if [ -e services/controller/src/main.ts ]; then echo dist/ferry-controller.mjs; fi
}

build_parts() {
  local recipe sum
  recipe=$(cat scripts/build.mjs package-lock.json | sha256sum | cut -c1-64)

  sum="$recipe $(sum_of proto)"
  if ! fresh proto "$sum" || ! all_present packages/image/src/generated; then
    build proto "$sum" 'generating code from proto/'
  fi

  sum="$recipe $(sum_of packages/linux/native packages/dumpbin/restorer packages/container/native packages/capture/native packages/pages/native)"
  if ! fresh native "$sum" || ! all_present packages/linux/build/addon.node packages/container/build/ferry-shim packages/pages/build/ferry-pager; then
    build native "$sum" 'compiling the native addon and the restorer'
  fi

  sum="$recipe $(sum_of packages services proto)"
  # shellcheck disable=SC2046
  if ! fresh bundle "$sum" || ! all_present $(bundles); then
    build bundle "$sum" 'bundling the programs'
  fi
}

install_debian_packages
install_npm_packages
build_parts
