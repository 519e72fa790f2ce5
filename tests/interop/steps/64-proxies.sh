# The samples of packaging/nginx and packaging/caddy as they are, but for names of files and, where that is tried, the port:
# at a host of their own, at another port, and below a path.

SAMPLES=$lib/../../../packaging
NAME=registry.example
SITE=site.example
PREFIX=/lab/registry/

# make_certificates : an authority that the clients trust, and a certificate for each name.
make_certificates() {
  local name place
  openssl req -x509 -newkey rsa:2048 -nodes -subj "/CN=an authority" -days 365 \
    -keyout "$W/ca.key" -out "$W/ca.crt" 2>"$W/openssl"
  for name in "$NAME" "$SITE"; do
    openssl req -new -newkey rsa:2048 -nodes -subj "/CN=$name" -keyout "$W/$name.key" -out "$W/csr" 2>"$W/openssl"
    openssl x509 -req -in "$W/csr" -CA "$W/ca.crt" -CAkey "$W/ca.key" -CAcreateserial -days 365 \
      -extfile <(echo "subjectAltName=DNS:$name") -out "$W/$name.crt" 2>"$W/openssl"
  done
  for place in "$NAME" "$NAME:8443"; do
    mkdir -p "/etc/docker/certs.d/$place"
    cp "$W/ca.crt" "/etc/docker/certs.d/$place/ca.crt"
  done
  echo "::1 $NAME $SITE" >>/etc/hosts
}

# start_registry_with KEYS : Boathouse with these keys of `http`, as the samples say; SERVER is its process.
start_registry_with() {
  cat >"$W/boathouse.yml" <<YML
http: {addr: 127.0.0.1:5000, trusted_proxies: [127.0.0.1]${1:+, $1}}
storage: {filesystem: {rootdirectory: $W/data}}
users:
  "tjarosik": {password: "\$2y\$05\$5Hlg8FOotoNFUlc7dBnYXeTXvwdmQezORL.vTjPEuxmaiYN/jpKK."}
acl:
  - match: {account: "tjarosik"}
    actions: ["*"]
YML
  "$BOATHOUSE" check --config "$W/boathouse.yml" >"$W/checked" 2>&1 || true
  check "check has no warning of addresses for the configuration of the samples" bash -c '! grep "^warning.*http" "$1"' - "$W/checked"
  "$BOATHOUSE" serve --config "$W/boathouse.yml" >>"$T/server.log" 2>&1 &
  SERVER=$!
  wait_until 20 registry_answers || { fail "Boathouse does not answer" "$T/server.log"; exit 1; }
}

# start_proxy_nginx SAMPLE PORT
start_proxy_nginx() {
  local place=$W/nginx
  mkdir -p "$place"
  sed -E "s|/etc/ssl/(certs\|private)/(.*)\.pem;|$W/\2.crt;|; s|/etc/ssl/private/|$W/|
    s/^( *listen ([^ ]*:)?)[0-9]+ ssl/\1$2 ssl/" "$SAMPLES/nginx/$1" >"$place/site.conf"
  run_nginx "$place"
  PROXY=$!
}

# start_proxy_caddy SAMPLE PORT
start_proxy_caddy() {
  local place=$W/caddy
  mkdir -p "$place"
  {
    # No second program listens at its port of administration, and no redirect at port 80.
    printf '{\n\tadmin off\n\tauto_https disable_redirects\n}\n'
    sed -E "s/^($NAME|$SITE)(:[0-9]+)? \{/\1:$2 {\n\ttls ${W//\//\\/}\/\1.crt ${W//\//\\/}\/\1.key/" "$SAMPLES/caddy/$1"
  } >"$place/sample"
  XDG_DATA_HOME=$place XDG_CONFIG_HOME=$place \
    caddy run --adapter caddyfile --config "$place/sample" >>"$place/error.log" 2>&1 &
  PROXY=$!
}

# start_proxy PROXY SAMPLE NAME PORT ; stop_both
start_proxy() {
  "start_proxy_$1" "$2" "$4"
  wait_until 20 asked_at "https://$3:$4/" || { fail "$1 does not answer" "$W/$1/error.log"; exit 1; }
}
stop_both() {
  stop_server
  kill -TERM "$PROXY"
  wait_for_end 15 "$PROXY" || fail "the proxy does not end"
}

asked_at() { curl -s --max-time 20 --cacert "$W/ca.crt" "$@"; }
# realm_at URL [CURL-ARGUMENT…] : where a challenge sends its client.
realm_at() { asked_at -o "$W/answer" -D - "$@" | header www-authenticate | sed 's/.*realm="\([^"]*\)".*/\1/'; }
client_of_last() { sed -n 's/.* client=\([^ ]*\) .*/\1/p' "$T/server.log" | tail -n 1; }

# serves PROXY URL REGISTRY : a client's whole way at a host and port of its own.
serves() {
  local proxy=$1 at=$2 registry=$3 back
  back=$W/back-$proxy-$(tr -dc a-z0-9 <<<"$at")
  same "$proxy at $at: the realm" "$at/token" "$(realm_at "$at/v2/")"
  wait_until 2 grep -q ' client=::1 ' "$T/server.log" || true
  same "… the client's address in the log" ::1 "$(client_of_last)"
  same "… and what a client writes about itself counts nothing" "$at/token" "$(realm_at "$at/v2/" \
    -H 'X-Forwarded-For: 192.0.2.1' -H 'X-Forwarded-Host: other.example' -H 'X-Forwarded-Proto: http' \
    -H 'Forwarded: for=192.0.2.1;host=other.example;proto=http')"
  check "… nor in the log" bash -c '! grep -F "client=192.0.2.1" "$1"' - "$T/server.log"
  check "… a login" skopeo login --authfile "$AUTH" --username tjarosik --password-stdin "$registry" <<<tjarosik-password
  check "… a push" copy --preserve-digests "oci:$W/big:latest" "docker://$registry/$proxy/big:1"
  check "… a pull" copy --preserve-digests "docker://$registry/$proxy/big:1" "oci:$back:latest"
  same_content "… of the same image" "$W/big" "$back"
}

# containerd with a registry below a path; `ctr` pushes and fetches.
start_containerd() {
  mkdir -p "$W/hosts/$SITE:8443"
  cat >"$W/hosts/$SITE:8443/hosts.toml" <<TOML
[host."https://$SITE:8443${PREFIX}v2"]
  ca = "$W/ca.crt"
  override_path = true
TOML
  printf 'version = 2\nroot = "%s"\nstate = "%s"\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\n  address = "%s"\n' \
    "$W/containerd" /run/containerd-state /run/containerd.sock >"$W/containerd.toml"
  containerd --config "$W/containerd.toml" >"$W/containerd.log" 2>&1 &
  wait_until 20 ctr version || { fail "containerd does not answer" "$W/containerd.log"; exit 1; }
}
ctr() { command ctr --address /run/containerd.sock "$@"; }

# serves_below PROXY : the same below a path, for clients that can be given one.
serves_below() {
  local proxy=$1 at=https://$SITE:8443 image=$SITE:8443/$1/app:1 login=(--hosts-dir "$W/hosts" --user tjarosik:tjarosik-password)
  same "$proxy below a path: the realm" "$at${PREFIX}token" "$(realm_at "$at${PREFIX}v2/")"
  same "… the rest of the site is another's" 404 "$(asked_at -o "$W/answer" -w '%{http_code}' "$at/v2/")"
  token=$(asked_at -u tjarosik:tjarosik-password "$at${PREFIX}token?service=boathouse&scope=repository:$proxy/app:pull,push" | jq -r .token)
  location=$(asked_at -o "$W/answer" -D - -X POST -H "Authorization: Bearer $token" "$at${PREFIX}v2/$proxy/app/blobs/uploads/" | header location)
  check "… Location is below the path" grep -E "^(https://$SITE:8443)?${PREFIX}v2/$proxy/app/blobs/uploads/" <<<"$location"
  check "… containerd pushes" ctr -n "$proxy" images import --no-unpack --base-name "${image%:*}" "$W/image.tar"
  check "… under its name" ctr -n "$proxy" images tag "$(ctr -n "$proxy" images list -q | head -n 1)" "$image"
  check "… through the path" ctr -n "$proxy" images push "${login[@]}" "$image"
  check "… and fetches" ctr -n "$proxy-back" content fetch "${login[@]}" "$image"
  same "… the same image" "$(digest_of "$W/image")" "$(ctr -n "$proxy-back" images list | awk -v name="$image" '$1 == name { print $3 }')"
}

mkdir "$W/data"
make_certificates
make_image "$W/image" 100000
make_image "$W/big" 40000000
skopeo --insecure-policy copy --quiet "oci:$W/image:latest" "oci-archive:$W/image.tar:latest"
start_containerd
for pair in nginx=boathouse.conf,boathouse-below-a-path.conf caddy=Caddyfile,Caddyfile.below-a-path; do
  proxy=${pair%%=*} samples=${pair#*=}
  start_registry_with ''
  start_proxy "$proxy" "${samples%,*}" "$NAME" 443
  serves "$proxy" "https://$NAME" "$NAME"
  stop_both
  start_registry_with ''
  start_proxy "$proxy" "${samples%,*}" "$NAME" 8443
  serves "$proxy" "https://$NAME:8443" "$NAME:8443"
  stop_both
  start_registry_with "prefix: $PREFIX"
  start_proxy "$proxy" "${samples#*,}" "$SITE" 8443
  serves_below "$proxy"
  stop_both
done
check "nginx wrote no body to the disk" bash -c '! grep -F "is buffered to a temporary file" "$1"' - "$W/nginx/error.log"
