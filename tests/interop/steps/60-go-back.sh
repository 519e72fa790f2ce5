# The way back and forth: the real docker-registry serves, collects and extends the same tree, with its own configuration.

OLD=127.0.0.1:5000
cat >"$W/registry.yml" <<YML
version: 0.1
log:
  level: warn
storage:
  filesystem:
    rootdirectory: $W/home/data
  delete:
    enabled: true
http:
  addr: $OLD
YML

# start_open COMMAND… : a registry that serves registry.yml, openly and over plain HTTP.
start_open() {
  "$@" >>"$T/server.log" 2>&1 &
  SERVER=$!
  wait_until 20 curl -sf "http://$OLD/v2/" || { fail "$1 does not answer" "$T/server.log"; exit 1; }
}
start_old() { start_open docker-registry serve "$W/registry.yml"; }
pull_open() { copy --all --preserve-digests --src-tls-verify=false "docker://$OLD/$1" "oci:$2:latest"; }
push_open() { copy --all --preserve-digests --dest-tls-verify=false "oci:$1:latest" "docker://$OLD/$2"; }
repositories() { curl -sf "http://$OLD/v2/_catalog" | jq -r '.repositories | sort | join(" ")'; }
collect() {
  docker-registry garbage-collect "$@" "$W/registry.yml" >"$W/collected" 2>&1 || { cat "$W/collected"; return 1; }
  ! grep -Ei 'error|failed|panic' "$W/collected"
}
layer_file() {
  local manifest hex
  manifest=$(digest_of "$1")
  hex=$(jq -r '.layers[0].digest' "$1/blobs/sha256/${manifest#sha256:}")
  hex=${hex#sha256:}
  echo "$W/home/data/docker/registry/v2/blobs/sha256/${hex:0:2}/$hex/data"
}

make_image "$W/image"
make_image "$W/deleted" 100000
make_image "$W/later" 100000
make_image "$W/gone" 100000
make_index "$W/index"
start_server "$W/home"
log_in >/dev/null
check "Boathouse takes an image" push "$W/image" team/app:1
check "… and an index" push "$W/index" team/multi:1
check "… and Docker's format" copy --format v2s2 "oci:$W/image:latest" "docker://$REGISTRY/team/docker:1"
docker_digest=$(remote_digest team/docker:1)
check "… and an image that is deleted again" push "$W/deleted" team/app:deleted
skopeo delete --authfile "$AUTH" "docker://$REGISTRY/team/app:deleted"
check "… and a repository that is deleted whole" push "$W/gone" team/gone:1
check "… by command" "$BOATHOUSE" delete team/gone --yes --dir "$W/home"
stop_server

start_old
same "2.8.2 lists the repositories" "team/app team/docker team/multi" "$(repositories)"
same "2.8.2 lists the tags" 1 "$(curl -sf "http://$OLD/v2/team/app/tags/list" | jq -r '.tags | join(" ")')"
check "2.8.2 serves the image" pull_open team/app:1 "$W/image-back"
same_content "image from 2.8.2" "$W/image" "$W/image-back"
check "2.8.2 serves the index" pull_open team/multi:1 "$W/index-back"
same_content "index from 2.8.2" "$W/index" "$W/index-back"
same "2.8.2 serves Docker's format" "$docker_digest" \
  "$(skopeo inspect --tls-verify=false --format '{{.Digest}}' "docker://$OLD/team/docker:1")"
refused "2.8.2 lists no tag of the deleted repository" '404|NAME_UNKNOWN' curl -sSf "http://$OLD/v2/team/gone/tags/list"
refused "… and serves nothing of it" 'manifest unknown|name unknown' pull_open team/gone:1 "$W/stolen"
refused "2.8.2 knows nothing of what was deleted" 'manifest unknown' pull_open team/app:deleted "$W/stolen"
stop_server

check "2.8.2's collector plans" collect --dry-run
check "… to remove what was deleted" grep -F 'blob eligible for deletion' "$W/collected"
check "… and touches nothing yet" test -e "$(layer_file "$W/deleted")"
# Two images were deleted: a manifest, a config and a layer each, of which the config may be shared.
blobs() { find "$W/home/data/docker/registry/v2/blobs" -name data | sort; }
blobs >"$W/blobs-before"
grep -o 'blob eligible for deletion: sha256:[0-9a-f]*' "$W/collected" | cut -d: -f3 | sort >"$W/eligible"
for image in deleted gone; do
  find "$W/$image/blobs/sha256" -type f -printf '%f\n'
done | sort -u >"$W/deleted-blobs"
same "… nor plans to delete anything else" 0 "$(comm -23 "$W/eligible" "$W/deleted-blobs" | wc -l)"
check "2.8.2's collector runs" collect
check "… and what was deleted is gone" test ! -e "$(layer_file "$W/deleted")"
check "… the deleted repository too" test ! -e "$(layer_file "$W/gone")"
gone() { comm -23 "$W/blobs-before" <(blobs) | sed -E 's|.*/([0-9a-f]{64})/data|\1|' | sort; }
same "… and nothing else" 0 "$(gone | comm -23 - "$W/deleted-blobs" | wc -l)"

start_old
check "2.8.2 serves what was kept" pull_open team/app:1 "$W/image-kept"
same_content "image after the collection" "$W/image" "$W/image-kept"
check "2.8.2 takes an image" push_open "$W/later" team/later:1
stop_server

start_server "$W/home"
check "Boathouse serves what 2.8.2 took" pull team/later:1 "$W/later-back"
same_content "image that 2.8.2 took" "$W/later" "$W/later-back"
check "Boathouse serves what 2.8.2 kept" pull team/multi:1 "$W/index-kept"
same_content "index after the collection" "$W/index" "$W/index-kept"
stop_server

start_open "$BOATHOUSE" serve --config "$W/registry.yml"
same "with 2.8.2's own configuration, openly: the repositories" "team/app team/docker team/later team/multi" \
  "$(repositories)"
check "… the image" pull_open team/app:1 "$W/image-open"
same_content "image served openly" "$W/image" "$W/image-open"
check "… and a push" push_open "$W/deleted" team/again:1
stop_server

chown -R daemon "$W/home/data"
refused "root does not serve data of another user" 'belongs to the user with id' "$BOATHOUSE" serve --config "$W/registry.yml"
