# The guide's installation: a registry on port 5000 and a token issuer on port 5001, by a file each, behind nginx as
# https://macvm.store. Files are where the guide has them: /etc is the world's own, and guide_files makes /mnt so.

STORE=macvm.store
REGISTRY_YML=/etc/docker/registry/config.yml
AUTH_YML=/etc/docker_auth/auth_config.yml
STORE_DATA=/mnt/ssd850a/registry-data
STORE_CA=/etc/docker/certs.d/$STORE/ca.crt

# guide_files : writes the installation, without data. The passwords are NAME-password.
guide_files() {
  local certs=/etc/default/registry-certs
  mountpoint -q /mnt || mount -t tmpfs tmpfs /mnt
  rm -rf "$STORE_DATA"
  mkdir -p "$STORE_DATA" "$certs" "${REGISTRY_YML%/*}" "${AUTH_YML%/*}" "${STORE_CA%/*}" "$W/nginx"
  grep -q "$STORE" /etc/hosts || echo "::1 $STORE" >>/etc/hosts
  openssl req -x509 -newkey rsa:2048 -nodes -subj "/CN=$STORE" -days 365 \
    -keyout "$certs/privkey.pem" -out "$certs/cert.pem" 2>"$W/openssl"
  cat >"$REGISTRY_YML" <<'YML'
version: 0.1
log: {fields: {service: registry}}
auth:
  token:
    realm: "https://macvm.store/auth"
    service: "jarosik-oci-service"
    issuer: "jarosik-token-issuer"
    rootcertbundle: /etc/default/registry-certs/cert.pem
storage:
  delete: {enabled: true}
  filesystem: {rootdirectory: /mnt/ssd850a/registry-data}
  cache: {blobdescriptor: inmemory}
http: {addr: ":5000", secret: thisisasecretforhttp, host: "https://macvm.store"}
YML
  cat >"$AUTH_YML" <<'YML'
server: {addr: ":5001"}
token:
  issuer: "jarosik-token-issuer"
  expiration: 900
  certificate: "/etc/default/registry-certs/cert.pem"
  key: "/etc/default/registry-certs/privkey.pem"
users:
  "tjarosik": {password: "$2y$05$5Hlg8FOotoNFUlc7dBnYXeTXvwdmQezORL.vTjPEuxmaiYN/jpKK."}
  "marcin": {password: "$2y$05$X/UXEf/l9jaaNZaWJHl.nOEyV323QDqXkOfqNsdILmTBqRC5tM0Ei"}
  "test": {password: "$2y$05$1r2DPdC0Qc4yYNmJOaYsquBNPqFSPCA9qve8oKYNEdGLlGta0LF0a"}
  "": {}
acl:
  - match: {account: "tjarosik"}
    actions: ["*"]
  - match: {account: "marcin"}
    actions: ["*"]
  - match: {account: "", name: "public/*"}
    actions: ["pull"]
YML
}

# start_nginx : answers as https://macvm.store with a certificate of an authority that the clients trust.
start_nginx() {
  local place=$W/nginx
  openssl req -x509 -newkey rsa:2048 -nodes -subj "/CN=an authority" -days 365 \
    -keyout "$place/ca.key" -out "$STORE_CA" 2>"$W/openssl"
  openssl req -new -newkey rsa:2048 -nodes -subj "/CN=$STORE" -keyout "$place/tls.key" -out "$place/csr" 2>"$W/openssl"
  openssl x509 -req -in "$place/csr" -CA "$STORE_CA" -CAkey "$place/ca.key" -CAcreateserial -days 365 \
    -extfile <(echo "subjectAltName=DNS:$STORE") -out "$place/tls.crt" 2>"$W/openssl"
  cat >"$place/site.conf" <<CONF
server {
  listen [::]:443 ssl;
  server_name $STORE;
  ssl_certificate $place/tls.crt;
  ssl_certificate_key $place/tls.key;
  client_max_body_size 0;
  proxy_set_header Host \$host;
  proxy_set_header X-Real-IP \$remote_addr;
  proxy_set_header X-Forwarded-For \$proxy_add_x_forwarded_for;
  proxy_set_header X-Forwarded-Proto \$scheme;
  location /auth { proxy_pass http://127.0.0.1:5001; }
  location / { proxy_pass http://127.0.0.1:5000; }
}
CONF
  run_nginx "$place"
  wait_until 10 store_answers || { fail "nginx does not answer" "$place/error.log"; exit 1; }
}
store_answers() { curl -s -o "$W/answer" --cacert "$STORE_CA" "https://$STORE/"; }

registry_answers() { [[ $(curl -s -o "$W/answer" -w '%{http_code}' http://127.0.0.1:5000/v2/) == 401 ]]; }
issuer_answers() { curl -s -o "$W/answer" http://127.0.0.1:5001/auth; }

# start_registry PROGRAM [OPTION] : it serves the guide's file; SERVER is its process.
start_registry() {
  "$1" serve "${@:2}" "$REGISTRY_YML" >>"$T/server.log" 2>&1 &
  SERVER=$!
  wait_until 20 registry_answers || { fail "$1 does not answer" "$T/server.log"; exit 1; }
}

# issuer_command : the token issuer of the guide in the foreground. Where docker_auth is not given, Boathouse stands in for
# it, by the same file alone.
issuer_command() {
  if [[ -n $DOCKER_AUTH_BIN ]]; then
    exec "$DOCKER_AUTH_BIN" --alsologtostderr "$AUTH_YML"
  fi
  exec "$BOATHOUSE" serve --config "$AUTH_YML"
}
start_issuer() {
  issuer_command >>"$W/issuer.log" 2>&1 &
  ISSUER=$!
  wait_until 20 issuer_answers || { fail "the token issuer does not answer" "$W/issuer.log"; exit 1; }
}
stop_issuer() {
  kill -TERM "$ISSUER"
  wait_for_end 15 "$ISSUER" || fail "the token issuer does not end" "$W/issuer.log"
}

# start_old PROGRAM, stop_old : both programs of the guide.
start_old() {
  start_issuer
  start_registry "$1"
}
stop_old() {
  stop_server
  stop_issuer
}

# start_taken_over [OPTION…] : Boathouse in their place, on the same two files; SERVER is its process.
start_taken_over() {
  "$BOATHOUSE" serve --config "$REGISTRY_YML" --config "$AUTH_YML" "$@" >>"$T/server.log" 2>&1 &
  SERVER=$!
  wait_until 20 taken_over_answers || { fail "Boathouse does not answer on both ports" "$T/server.log"; exit 1; }
}
taken_over_answers() { registry_answers && issuer_answers; }

# stock FILE : writes all that tjarosik can pull, byte for byte; may FILE: what each account may do.
stock() { "$lib/as_client" stock "$STORE" "$STORE_CA" tjarosik:tjarosik-password >"$1"; }
may() {
  "$lib/as_client" may "$STORE" "$STORE_CA" tjarosik:tjarosik-password marcin:marcin-password marcin:wrong \
    test:test-password nobody:nobody-password '' >"$1"
}
store_login() {
  skopeo login --authfile "$AUTH" --username tjarosik --password-stdin "$STORE" <<<tjarosik-password
}
store_push() { copy --all --preserve-digests "oci:$1:latest" "docker://$STORE/$2"; }
