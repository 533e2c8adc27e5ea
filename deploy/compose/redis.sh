#!/bin/sh
# Starts Redis with a password: REDIS_PASSWORD, or one drawn at the first start and kept in a volume that the
# other services mount read-only. Arguments are options of redis-server.
set -eu

password=/run/tokenrelay/redis-password
umask 027

if [ -n "${REDIS_PASSWORD:-}" ]; then
    case $REDIS_PASSWORD in
    *[!A-Za-z0-9_-]*)
        echo "redis: REDIS_PASSWORD accepts letters, digits, - and _ only: it becomes part of a URL" >&2
        exit 1
        ;;
    esac
    printf %s "$REDIS_PASSWORD" >"$password.new"
elif [ ! -s "$password" ]; then
    od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$password.new"
fi
if [ -e "$password.new" ]; then
    chgrp 10001 "$password.new" # The user of the other images.
    mv "$password.new" "$password"
fi

# On standard input, because every process may read another's arguments.
exec docker-entrypoint.sh redis-server - "$@" <<EOF
requirepass $(cat "$password")
EOF
