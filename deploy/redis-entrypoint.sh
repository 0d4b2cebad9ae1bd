#!/usr/bin/env bash
# Starts the Redis of the controller. Its password lies in /run/ferry-redis/password, and is in no argument.
set -euo pipefail
password=$(cat /run/ferry-redis/password)
# The queue must never lose a job to eviction, and records outlive a restart.
exec redis-server - --bind "${FERRY_REDIS_BIND:-0.0.0.0}" --dir /data --appendonly yes --save '' \
  --maxmemory-policy noeviction "$@" < <(printf 'requirepass %s\n' "$password")
