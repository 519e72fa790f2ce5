# docker_auth beside Boathouse: its tokens open Boathouse. Then without it: its own file decides the same.
#
# It cannot be installed by name: DOCKER_AUTH_BIN names it.

[[ -n $DOCKER_AUTH_BIN ]] || { not_run docker_auth; return; }

OTHER=another-password-for-tests
OTHER_HASH='$2b$10$CflXOvd7UUcHEkOLIi/s9OhzPnTg7g1idW7aXlmHgZNF1Ku7gjbSW'
ISSUER=$HOST:5001

# The first start makes certificates; docker_auth borrows the one of the server, and has a key of its own for tokens.
start_server "$W/home"
stop_server
openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=docker_auth -days 30 \
  -keyout "$W/token.key" -out "$W/token.crt" 2>"$W/openssl"

cat >"$W/auth_config.yml" <<YML
server:
  addr: "[::1]:5001"
  certificate: $DIR/keys/tls.crt
  key: $DIR/keys/tls.key
token:
  issuer: a-docker-auth
  expiration: 900
  certificate: $W/token.crt
  key: $W/token.key
users:
  admin: {password: "$OTHER_HASH"}
  builder: {password: "$OTHER_HASH"}
  reader: {password: "$OTHER_HASH"}
acl:
  - {match: {account: admin}, actions: ["*"]}
  - {match: {account: builder, name: "team/*"}, actions: [pull, push]}
  - {match: {account: builder, name: "home/\${account}/*"}, actions: ["*"]}
  - {match: {account: "/^read/", name: "/^team[/]/"}, actions: [pull]}
YML
cat >"$W/registry.yml" <<YML
version: 0.1
storage:
  filesystem: {rootdirectory: $DIR/data}
  delete: {enabled: true}
http:
  addr: "[::1]:$PORT"
  tls: {certificate: $DIR/keys/tls.crt, key: $DIR/keys/tls.key}
YML
cat >"$W/trusting.yml" <<YML
auth:
  token:
    realm: https://$ISSUER/auth
    service: a-registry
    issuer: a-docker-auth
    rootcertbundle: $W/token.crt
YML
# The same file as Boathouse takes it: it listens once, and the realm is its own.
sed -E '/^server:/,/^token:/{/^token:/!d}' "$W/auth_config.yml" >"$W/own.yml"

configs=(--config "$W/registry.yml" --config "$W/trusting.yml")
boathouse_up() { exec "$BOATHOUSE" serve "${configs[@]}"; }
login_as() { skopeo login --authfile "$AUTH" --username "$1" --password-stdin "$REGISTRY" <<<"$2"; }
# decisions REALM : what each account gets of each scope, one in a line.
decisions() {
  local account scope
  for account in admin builder reader; do
    for scope in repository:team/app:pull,push repository:team/a/b:pull,push repository:home/builder/x:delete,push \
      repository:home/reader/x:pull repository:other/app:pull 'registry:catalog:*'; do
      curl -sS --fail --cacert "$CA" -u "$account:$OTHER" -G --data-urlencode "service=a-registry" \
        --data-urlencode "scope=$scope" "$1" |
        jq -r --arg who "$account $scope" '.token | split(".")[1] | gsub("-"; "+") | gsub("_"; "/") | @base64d | fromjson |
          $who + " " + .sub + " " + .aud + " " + ([.access[]? | .actions // [] | sort[]] | join(","))' || return
    done
  done
}
# moves_images : what each account may do, by skopeo.
moves_images() {
  refused "$1: login with a wrong password" 'unauthorized|invalid username/password' login_as builder wrong
  refused "$1: push without login" 'unauthorized|authentication required|invalid username/password' \
    copy --dest-no-creds "oci:$W/image:latest" "docker://$REGISTRY/team/app:$1"
  check "$1: login" login_as builder "$OTHER"
  check "$1: push" push "$W/image" "team/app:$1"
  refused "$1: push where it may not" 'unauthorized|denied' push "$W/image" "other/app:$1"
  check "$1: login as one who only reads" login_as reader "$OTHER"
  check "$1: pull" pull "team/app:$1" "$W/back-$1"
  same_content "$1: pulled image" "$W/image" "$W/back-$1"
  refused "$1: push by one who only reads" 'unauthorized|denied' push "$W/image" "team/app:read-$1"
  refused "$1: delete by one who only reads" 'unauthorized|denied' \
    skopeo delete --authfile "$AUTH" "docker://$REGISTRY/team/app:$1"
  check "$1: login as the admin" login_as admin "$OTHER"
  check "$1: delete" skopeo delete --authfile "$AUTH" "docker://$REGISTRY/team/app:$1"
  refused "$1: what was deleted is unknown" 'manifest unknown' remote_digest "team/app:$1"
}

make_image "$W/image" 100000
"$DOCKER_AUTH_BIN" --alsologtostderr "$W/auth_config.yml" >"$W/docker_auth.log" 2>&1 &
issuer=$!
if ! wait_until 20 curl -s --cacert "$CA" "https://$ISSUER/auth"; then
  fail "docker_auth does not answer" "$W/docker_auth.log"
  exit 1
fi
start_server "$W/home"
moves_images theirs
theirs=$(decisions "https://$ISSUER/auth")
kill "$issuer"
stop_server

configs=(--config "$W/registry.yml" --config "$W/own.yml")
start_server "$W/home"
moves_images ours
same "both decide the same" "$theirs" "$(decisions "$URL/auth")"
