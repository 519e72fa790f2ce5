# The way back and forth in a bucket: the real docker-registry serves, collects and extends what Boathouse wrote there, and
# Boathouse serves what it took.

start_s3 minio "$W/s3"
data_in_bucket

OLD=127.0.0.1:5000
cat >"$W/registry.yml" <<YML
version: 0.1
log: {level: warn}
storage:
  s3: $(s3_section home | sed 's/}$/, v4auth: true}/')
  delete: {enabled: true}
  redirect: {disable: true}
http: {addr: "$OLD"}
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
# layer_key LAYOUT : the key of the image's layer in the bucket.
layer_key() {
  local manifest hex
  manifest=$(digest_of "$1")
  hex=$(jq -r '.layers[0].digest' "$1/blobs/sha256/${manifest#sha256:}")
  hex=${hex#sha256:}
  echo "home/docker/registry/v2/blobs/sha256/${hex:0:2}/$hex/data"
}
is_stored() { [[ $(s3_keys "$(layer_key "$1")") == "$(layer_key "$1")" ]]; }
is_not_stored() { [[ -z $(s3_keys "$(layer_key "$1")") ]]; }

make_image "$W/image"
# Larger than what is kept on this machine until its digest is known: it goes to the bucket in parts, and is copied there.
make_image "$W/large" 100000000
make_image "$W/deleted" 100000
make_image "$W/later" 30000000
make_index "$W/index"
start_server "$W/home"
log_in >/dev/null
check "Boathouse takes an image" push "$W/image" team/app:1
check "… a large one" push "$W/large" team/large:1
check "… an index" push "$W/index" team/multi:1
check "… and an image that is deleted again" push "$W/deleted" team/app:deleted
skopeo delete --authfile "$AUTH" "docker://$REGISTRY/team/app:deleted"
stop_server

start_old
same "2.8.2 lists the repositories" "team/app team/large team/multi" "$(repositories)"
same "2.8.2 lists the tags" 1 "$(curl -sf "http://$OLD/v2/team/app/tags/list" | jq -r '.tags | join(" ")')"
for name in image=app large=large index=multi; do
  check "2.8.2 serves the ${name%=*}" pull_open "team/${name#*=}:1" "$W/${name%=*}-back"
  same_content "${name%=*} from 2.8.2" "$W/${name%=*}" "$W/${name%=*}-back"
done
refused "2.8.2 knows nothing of what was deleted" 'manifest unknown' pull_open team/app:deleted "$W/stolen"
stop_server

check "2.8.2's collector plans" collect --dry-run
check "… to remove what was deleted" grep -F 'blob eligible for deletion' "$W/collected"
check "… and touches nothing yet" is_stored "$W/deleted"
check "2.8.2's collector runs" collect
check "… and what was deleted is gone" is_not_stored "$W/deleted"

start_old
for name in image=app large=large index=multi; do
  check "2.8.2 serves the ${name%=*} after its collector" pull_open "team/${name#*=}:1" "$W/${name%=*}-kept"
  same_content "${name%=*} after the collection" "$W/${name%=*}" "$W/${name%=*}-kept"
done
check "2.8.2 takes an image" push_open "$W/later" team/later:1
stop_server

start_server "$W/home"
check "Boathouse serves what 2.8.2 took" pull team/later:1 "$W/later-back"
same_content "image that 2.8.2 took" "$W/later" "$W/later-back"
check "Boathouse serves what 2.8.2 kept" pull team/multi:1 "$W/index-kept"
same_content "index after the collection" "$W/index" "$W/index-kept"
same "Boathouse lists what 2.8.2 took" "team/app team/large team/later team/multi" \
  "$(http "$URL/v2/_catalog" | jq -r '.repositories | sort | join(" ")')"
stop_server
