#!/usr/bin/env bash
# Makes a certificate authority in /authority and folders for --tls in /tls/NAME, where they are missing; for a trial on
# one machine. And a password for Redis in /redis-secret, where that is mounted. Arguments: ROLE/NAME, or ROLE/NAME:HOST for a program that others find by a host name.
set -euo pipefail
if [ -d /redis-secret ] && [ ! -e /redis-secret/password ]; then
  (umask 077 && od -An -N 24 -tx1 /dev/urandom | tr -d ' \n' >/redis-secret/password)
fi
[ -e /authority/ca.key ] || ferry ca init /authority
for who in "$@"; do
  identity=${who%%:*}
  host=()
  if [ "$identity" != "$who" ]; then host=(--host "${who#*:}"); fi
  folder=/tls/${identity#*/}
  if [ -e "$folder/tls.crt" ]; then continue; fi
  ferry ca issue /authority --role "${identity%/*}" --name "${identity#*/}" --out "$folder" --days 365 "${host[@]}"
done
