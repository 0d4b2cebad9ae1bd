#!/usr/bin/env bash
# Starts an agent inside a privileged container that plays a host: puts the container's network interface on a bridge,
# which Ferry's containers join, so that their addresses answer on the same network whichever host they are on.
# Certificates of the node lie in /etc/ferry/tls ("ferry ca issue").
# Environment: FERRY_NODE_ID, FERRY_CONTROLLER, FERRY_RANGE (addresses for containers; the rest from the interface).
set -euo pipefail

if ! ip link show br0 >/dev/null 2>&1; then
  address=$(ip -o -4 address show dev eth0 | awk '{print $4}')
  gateway=$(ip route show default | awk '{print $3; exit}')
  ip link add br0 type bridge forward_delay 0 stp_state 0
  ip address del "$address" dev eth0
  ip link set eth0 master br0
  ip address add "$address" dev br0
  ip link set br0 up
  if [ -n "$gateway" ]; then ip route add default via "$gateway" dev br0; fi
fi
address=$(ip -o -4 address show dev br0 | awk '{print $4; exit}')

# The control groups of Ferry's containers lie beside Docker's: on a host with cgroup v2 alone, Docker gives this
# container a view of its own of the tree, which is left here (needs the host's PIDs: "pid: host").
leave=(nsenter --target 1 --cgroup --)
if ! "${leave[@]}" true 2>/dev/null; then leave=(); fi

exec "${leave[@]}" node /opt/ferry/dist/ferry-agent.mjs \
  --node-id "$FERRY_NODE_ID" \
  --listen "${address%/*}:7461" \
  --controller "$FERRY_CONTROLLER" \
  --tls /etc/ferry/tls \
  --state-dir /var/lib/ferry \
  --bridge br0 \
  --subnet "${FERRY_SUBNET:-172.30.0.0/16}" \
  --range "${FERRY_RANGE:-172.30.1.10-172.30.1.250}" \
  "$@"
