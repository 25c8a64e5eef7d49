#!/bin/sh
# Run what is asked for; scripts that a pod mounts into /docker-entrypoint.d come first, as in the image of this name.
set -e
if [ "$1" = nginx ] || [ "$1" = nginx-debug ]; then
    page=/etc/nginx/conf.d/default.conf
    # Where the kernel knows no IPv6, nginx would not start with it.
    if [ -e /proc/net/if_inet6 ] && [ -w "$page" ]; then
        sed -i 's/^    listen 80; # and .*/    listen 80;\n    listen [::]:80;/' "$page"
    fi
    for script in /docker-entrypoint.d/*.sh; do
        if [ -x "$script" ]; then "$script"; fi
    done
fi
exec "$@"
