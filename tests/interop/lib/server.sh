# Boathouse as the steps meet it: started, trusted, asked, stopped.

HOST=boathouse.test
PORT=5443
REGISTRY=$HOST:$PORT
URL=https://$REGISTRY
PASSWORD=a-password-for-tests
CERTS=/etc/docker/certs.d/$REGISTRY

# The one place that knows how the program is started.
boathouse_up() {
  BOATHOUSE_ADMIN_PASSWORD=$PASSWORD exec "$BOATHOUSE" up --dir "$1" --addr "[::1]:$PORT" --host "$HOST" "${@:2}"
}

# start_server DIR : SERVER is its process; its CA is trusted by docker and skopeo from here on.
start_server() {
  DIR=$1 CA=$1/ca.crt
  boathouse_up "$1" >>"$T/server.log" 2>&1 &
  SERVER=$!
  wait_until 30 answers_or_ended || true
  asks_for_credentials || { fail "the server does not answer" "$T/server.log"; exit 1; }
  mkdir -p "$CERTS"
  cp "$CA" "$CERTS/ca.crt"
}

answers_or_ended() { asks_for_credentials || ! kill -0 "$SERVER"; }

asks_for_credentials() { [[ $(anonymous "$URL/v2/") == 401 ]]; }

stop_server() {
  kill -TERM "$SERVER"
  wait_for_end 15 "$SERVER" || fail "the server does not end" "$T/server.log"
}

kill_server() {
  kill -KILL "$SERVER"
  wait_for_end 5 "$SERVER" 2>/dev/null # where bash would say "Killed"
}

# without_trust COMMAND… : runs it while no client knows the CA.
without_trust() {
  local code=0
  mv "$CERTS" "$T/untrusted"
  "$@" || code=$?
  mv "$T/untrusted" "$CERTS"
  return "$code"
}

# anonymous CURL-ARGUMENT… : the status of a request without credentials.
anonymous() { curl -s --max-time 20 --cacert "$CA" -o /dev/null -w '%{http_code}' "$@"; }

# http CURL-ARGUMENT… : a request as the admin; an answer from 400 on is a failure.
http() { curl -sS --fail --cacert "$CA" -u "admin:$PASSWORD" -H 'Expect:' "$@"; }

# header NAME : that header's value from the answer on standard input.
header() { tr -d '\r' | sed -n "s/^$1: //Ip" | tail -n 1; }

# absolute LOCATION : as it can be requested; a registry may answer with a path only.
absolute() {
  case $1 in
    http*) echo "$1" ;;
    *) echo "$URL$1" ;;
  esac
}

# with_digest LOCATION DIGEST : the address that finishes an upload.
with_digest() {
  case $1 in
    *\?*) echo "$1&digest=$2" ;;
    *) echo "$1?digest=$2" ;;
  esac
}

# forget_image REPOSITORY:TAG : the manifest and its blobs are deleted from that repository, through the API.
forget_image() {
  local at=$URL/v2/${1%:*} manifest digest
  manifest=$(mktemp "$T/manifest.XXXXXX")
  http -o "$manifest" -H 'Accept: */*' "$at/manifests/${1##*:}" || return
  http -X DELETE "$at/manifests/sha256:$(sha256 "$manifest")" || return
  for digest in $(jq -r '[.config, .layers[]] | map(.digest) | unique[]' "$manifest"); do
    http -X DELETE "$at/blobs/$digest" || return
  done
}

# run_nginx PLACE : nginx in the background ($!) with the site in PLACE/site.conf; it keeps all its files in PLACE.
run_nginx() {
  cat >"$1/nginx.conf" <<CONF
user root;
daemon off;
pid $1/pid;
error_log $1/error.log warn;
events {}
http {
  access_log off;
  client_body_temp_path $1/body;
  proxy_temp_path $1/proxy;
  fastcgi_temp_path $1/unused;
  uwsgi_temp_path $1/unused;
  scgi_temp_path $1/unused;
  include $1/site.conf;
}
CONF
  nginx -c "$1/nginx.conf" 2>>"$1/error.log" &
}
