# A tree that the real 2.8.2 wrote, damaged as trees are after years: Boathouse serves what is whole at once, and
# `check --data` names each fault.

OLD=127.0.0.1:5000
V2=$W/data/docker/registry/v2
cat >"$W/registry.yml" <<YML
version: 0.1
log: {level: warn}
storage: {filesystem: {rootdirectory: $W/data}, delete: {enabled: true}}
http: {addr: "$OLD"}
YML
start_open() {
  "$@" >>"$T/server.log" 2>&1 &
  SERVER=$!
  wait_until 20 curl -sf "http://$OLD/v2/" || { fail "$1 does not answer" "$T/server.log"; exit 1; }
}
push_open() { copy --all --preserve-digests --dest-tls-verify=false "oci:$1:latest" "docker://$OLD/$2"; }
pull_open() { copy --all --preserve-digests --src-tls-verify=false "docker://$OLD/$1" "oci:$2:latest"; }
manifest_status() { curl -s -o "$W/answer" -w '%{http_code}' -H 'Accept: */*' "http://$OLD/v2/$1/manifests/$2"; }
data_of() { echo "$V2/blobs/sha256/${1:7:2}/${1#sha256:}/data"; }
layer_of() { jq -r '.layers[0].digest' "$1/blobs/sha256/$(digest_of "$1" | cut -d: -f2)"; }
# put_by_hand REPOSITORY TAG FILE : as an earlier version of the registry left it, or another program.
put_by_hand() {
  local digest repository=$V2/repositories/$1/_manifests link
  digest=sha256:$(sha256 "$3")
  mkdir -p "$(dirname "$(data_of "$digest")")"
  cp "$3" "$(data_of "$digest")"
  for link in "revisions/sha256/${digest#sha256:}" "tags/$2/current" "tags/$2/index/sha256/${digest#sha256:}"; do
    mkdir -p "$repository/$link"
    printf %s "$digest" >"$repository/$link/link"
  done
}

for image in whole cut lost unlinked; do make_image "$W/$image" 100000; done
start_open docker-registry serve "$W/registry.yml"
check "2.8.2 takes what stays whole" push_open "$W/whole" team/app:1
check "… and what loses its tag's link" push_open "$W/cut" team/app:cut
check "… and what loses a layer" push_open "$W/lost" team/app:lost
check "… and what loses a layer's link" push_open "$W/unlinked" team/other:unlinked
stop_server

repository=$V2/repositories/team/app
: >"$repository/_manifests/tags/cut/current/link"
rm "$(data_of "$(layer_of "$W/lost")")"
: >"$V2/repositories/team/other/_layers/sha256/$(layer_of "$W/unlinked" | cut -d: -f2)/link"
echo stray >"$repository/_manifests/tags/stray"
echo stray >"$V2/blobs/sha256/.DS_Store"
cat >"$W/schema1" <<'JSON'
{"schemaVersion": 1, "name": "team/app", "tag": "ancient", "architecture": "amd64", "fsLayers": [], "history": [],
 "signatures": []}
JSON
put_by_hand team/app ancient "$W/schema1"
echo '{"schemaVersion": 2, "mediaType": "application/vnd.unheard.of+json"}' >"$W/unknown"
put_by_hand team/app unknown "$W/unknown"

start_open "$BOATHOUSE" serve --config "$W/registry.yml"
check "Boathouse serves what is whole" pull_open team/app:1 "$W/back"
same_content "the whole image" "$W/whole" "$W/back"
same "the tag with the empty link is not there" 404 "$(manifest_status team/app cut)"
same "the manifest without its layer is" 200 "$(manifest_status team/app lost)"
refused "… and its layer is not" 'blob unknown|not found' pull_open team/app:lost "$W/stolen"
refused "the layer with the empty link is not there" 'blob unknown|not found' pull_open team/other:unlinked "$W/stolen"
same "schema 1 is served as it is" 200 "$(manifest_status team/app ancient)"
check "… byte for byte" cmp "$W/schema1" "$W/answer"
same "the unknown type is served as it is" 200 "$(manifest_status team/app unknown)"
check "… byte for byte" cmp "$W/unknown" "$W/answer"
check "a push mends what is damaged" push_open "$W/unlinked" team/other:unlinked
check "… and it can be pulled" pull_open team/other:unlinked "$W/mended"
stop_server
: >"$V2/repositories/team/other/_layers/sha256/$(layer_of "$W/unlinked" | cut -d: -f2)/link"

# named FAULT TEXT : `check --data` has a line with TEXT.
named() { check "check --data names $1" grep -F -- "$2" "$W/faults"; }
"$BOATHOUSE" check --data --config "$W/registry.yml" >"$W/faults" 2>&1 && fail "check --data finds no fault" "$W/faults"
named "the empty link of a tag" tags/cut/current/link
named "the missing layer" "$(layer_of "$W/lost")"
named "the empty link of a layer" "_layers/sha256/$(layer_of "$W/unlinked" | cut -d: -f2)/link"
named "the stray file among tags" tags/stray
named "the stray file among blobs" .DS_Store
named "the schema 1 manifest" "$(sha256 "$W/schema1")"
named "the manifest of an unknown type" "$(sha256 "$W/unknown")"
