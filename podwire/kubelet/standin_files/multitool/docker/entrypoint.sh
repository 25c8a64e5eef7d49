#!/bin/sh
# Write this pod's page and server, then run what is asked for. HTTP_PORT and HTTPS_PORT choose other ports than 80 and 443.
set -e
http=${HTTP_PORT:-80}
https=${HTTPS_PORT:-443}
pages=/usr/share/nginx/html
keys=/etc/nginx/keys
address=$(hostname -I 2>/dev/null | cut -d' ' -f1)
mkdir -p "$pages" "$keys" /etc/nginx/conf.d

if [ -w "$pages" ]; then
    echo "Network MultiTool (with NGINX) - $(hostname) - ${address:-no address} - HTTP: $http , HTTPS: $https" \
        > "$pages/index.html"
fi
if [ ! -s "$keys/server.crt" ]; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -subj "/CN=$(hostname)" \
        -keyout "$keys/server.key" -out "$keys/server.crt" 2>/dev/null
fi
both=
if [ -e /proc/net/if_inet6 ]; then
    both="listen [::]:$http; listen [::]:$https ssl;"
fi
cat > /etc/nginx/conf.d/default.conf <<CONF
server {
    listen $http;
    listen $https ssl;
    $both
    ssl_certificate $keys/server.crt;
    ssl_certificate_key $keys/server.key;
    root $pages;
    index index.html;
}
CONF
exec "$@"
