# skopeo: log in, push, inspect, list, copy by mount, pull, delete; images, an index, Docker's format; and who is refused.

start_server "$W/home"
make_image "$W/image"
make_index "$W/index"
digest=$(digest_of "$W/image")

refused "login with a wrong password" 'invalid username/password|unauthorized' log_in wrong
refused "login while the CA is unknown" 'certificate signed by unknown authority' without_trust log_in
refused "push without credentials" 'unauthorized|authentication required|invalid username/password' \
  push "$W/image" team/app:1
check "login" log_in
refused "push with a wrong password" 'unauthorized|invalid username/password' \
  copy --dest-creds admin:wrong "oci:$W/image:latest" "docker://$REGISTRY/team/app:1"
refused "push while the CA is unknown" 'certificate signed by unknown authority' \
  without_trust push "$W/image" team/app:1
refused "what was refused is not there" 'manifest unknown|name unknown|not found' remote_digest team/app:1

check "push" push "$W/image" team/app:1
check "push a second tag" push "$W/image" team/app:2
same "inspect tells the digest that was pushed" "$digest" "$(remote_digest team/app:1)"
list_tags() { skopeo list-tags --authfile "$AUTH" "docker://$REGISTRY/$1" | jq -r '.Tags[]'; }
same "tags are listed" "1 2" "$(list_tags team/app | sort | paste -sd ' ')"
refused "pull without credentials" 'unauthorized|authentication required|invalid username/password' \
  copy --src-no-creds "docker://$REGISTRY/team/app:1" "oci:$W/stolen:latest"

copies_by_mount "copy to another repository" other/app:1 1 1 \
  copy "docker://$REGISTRY/team/app:1" "docker://$REGISTRY/other/app:1"
check "pull it from there" pull other/app:1 "$W/back"
same "the digest came back" "$digest" "$(digest_of "$W/back")"
same_content "pulled image" "$W/image" "$W/back"

check "push an index" push "$W/index" team/multi:1
same "the index keeps its digest" "$(digest_of "$W/index")" "$(remote_digest team/multi:1)"
check "pull the index" pull team/multi:1 "$W/index-back"
same_content "pulled index" "$W/index" "$W/index-back"

check "push in Docker's format" copy --format v2s2 "oci:$W/image:latest" "docker://$REGISTRY/team/docker:1"
same "it is kept as Docker's schema 2" application/vnd.docker.distribution.manifest.v2+json \
  "$(skopeo inspect --authfile "$AUTH" --raw "docker://$REGISTRY/team/docker:1" | jq -r .mediaType)"
check "pull Docker's format" copy "docker://$REGISTRY/team/docker:1" "dir:$W/docker-back"
layer=$(jq -r '.layers[0].digest' "$W/docker-back/manifest.json")
same "its layer is the one pushed" "$layer" "sha256:$(sha256 "$W/image/blobs/sha256/${layer#sha256:}")"
same "its layer came back" "$layer" "sha256:$(sha256 "$W/docker-back/${layer#sha256:}")"

check "delete" skopeo delete --authfile "$AUTH" "docker://$REGISTRY/other/app:1"
refused "what was deleted is unknown" 'manifest unknown' remote_digest other/app:1
same "the other repository keeps it" "$digest" "$(remote_digest team/app:1)"

short_pages
push_many_tags "$W/image"
lists_many_tags list_tags team/many
check "logout" skopeo logout --authfile "$AUTH" "$REGISTRY"
refused "pull after logout" 'unauthorized|authentication required|invalid username/password' \
  pull team/many:t001 "$W/stolen"
