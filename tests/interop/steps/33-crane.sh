# crane: log in, push, pull, list, copy, delete; images and an index; and who is refused.
#
# `crane auth login` asks nobody, so a wrong password is noticed by the next command.

start_server "$W/home"
make_image "$W/image"
make_index "$W/index"
digest=$(digest_of "$W/image")

crane() { SSL_CERT_FILE=$CA command crane "$@"; }
crane_without_trust() { command crane "$@"; }
login() { crane auth login --username admin --password-stdin "$REGISTRY" <<<"$1"; }
pull_image() { crane pull --format oci "$REGISTRY/$1" "$2"; }
echo "      crane $(command crane version)"

refused "push without login" 'UNAUTHORIZED|authentication required' crane push "$W/image" "$REGISTRY/team/app:1"
login wrong 2>"$W/login"
refused "push with a wrong password" 'UNAUTHORIZED|401' crane push "$W/image" "$REGISTRY/team/app:1"
refused "pull with a wrong password" 'UNAUTHORIZED|401' pull_image team/app:1 "$W/stolen"
check "login" login "$PASSWORD"
refused "push while the CA is unknown" 'certificate signed by unknown authority' \
  crane_without_trust push "$W/image" "$REGISTRY/team/app:1"
refused "what was refused is not there" 'MANIFEST_UNKNOWN|NAME_UNKNOWN|404' crane digest "$REGISTRY/team/app:1"

check "push" crane push "$W/image" "$REGISTRY/team/app:1"
same "the digest is the one that was pushed" "$digest" "$(crane digest "$REGISTRY/team/app:1")"
check "the image is sound, says crane" crane validate --remote "$REGISTRY/team/app:1"
check "a second tag" crane tag "$REGISTRY/team/app:1" 2
same "tags are listed" "1 2" "$(crane ls "$REGISTRY/team/app" | sort | paste -sd ' ')"
check "pull" pull_image team/app:1 "$W/back"
same_content "pulled image" "$W/image" "$W/back"

copies_by_mount "copy to another repository" other/app:1 2 0 \
  crane copy "$REGISTRY/team/app:1" "$REGISTRY/other/app:1"
same "the copy has the same digest" "$digest" "$(crane digest "$REGISTRY/other/app:1")"
check "the copy is sound, says crane" crane validate --remote "$REGISTRY/other/app:1"

check "push an index" crane push "$W/index" "$REGISTRY/team/multi:1"
same "the index keeps its digest" "$(digest_of "$W/index")" "$(crane digest "$REGISTRY/team/multi:1")"
check "pull the index" pull_image team/multi:1 "$W/index-back"
same_content "pulled index" "$W/index" "$W/index-back"
arm=$(jq -r '.manifests[] | select(.platform.architecture == "arm64") | .digest' \
  "$W/index/blobs/sha256/$(digest_of "$W/index" | cut -d: -f2)")
same "a platform is found" "$arm" "$(crane digest --platform linux/arm64 "$REGISTRY/team/multi:1")"
check "copy the index" crane copy "$REGISTRY/team/multi:1" "$REGISTRY/other/multi:1"
check "put an index together" crane index append -t "$REGISTRY/team/joined:1" \
  -m "$REGISTRY/team/multi@$arm" -m "$REGISTRY/team/app:1"
same "it is an index of two" 2 "$(crane manifest "$REGISTRY/team/joined:1" | jq '.manifests | length')"

short_pages
push_many_tags "$W/image"
lists_many_tags crane ls "$REGISTRY/team/many"
same "repositories are listed" "other/app other/multi team/app team/joined team/many team/multi" \
  "$(crane catalog "$REGISTRY" | sort | paste -sd ' ')"

check "delete a tag" crane delete "$REGISTRY/team/app:2"
same "the other tag stays" 1 "$(crane ls "$REGISTRY/team/app" | paste -sd ' ')"
check "delete by digest" crane delete "$REGISTRY/team/app@$digest"
refused "what was deleted is unknown" 'MANIFEST_UNKNOWN|404' crane digest "$REGISTRY/team/app:1"
same "the other repository keeps it" "$digest" "$(crane digest "$REGISTRY/other/app:1")"
stop_server
sed -i 's/^  #http2: {disabled: true}/  http2: {disabled: false}/' "$DIR/boathouse.yml"
start_server "$W/home"
same "HTTP/2 is switched on" 2 "$(curl -s --http2 --cacert "$CA" -o /dev/null -w '%{http_version}' "$URL/healthz")"
check "push over HTTP/2" crane push "$W/image" "$REGISTRY/team/http2:1"
check "pull over HTTP/2" pull_image team/http2:1 "$W/back-http2"
same_content "image pulled over HTTP/2" "$W/image" "$W/back-http2"

check "logout" crane auth logout "$REGISTRY"
refused "pull after logout" 'UNAUTHORIZED|authentication required' pull_image other/app:1 "$W/stolen"
