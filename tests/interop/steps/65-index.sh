# The index against the real docker-registry: what it pushes, deletes and collects on the same tree while Boathouse is
# down is listed right after the start.

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

start_old() {
  docker-registry serve "$W/registry.yml" >>"$T/server.log" 2>&1 &
  SERVER=$!
  wait_until 20 curl -sf "http://$OLD/v2/" || { fail "docker-registry does not answer" "$T/server.log"; exit 1; }
}
push_old() { copy --all --preserve-digests --dest-tls-verify=false "oci:$1:latest" "docker://$OLD/$2"; }
delete_old() { curl -sS --fail -X DELETE "http://$OLD/v2/$1/manifests/$2"; }
# put_old REPOSITORY FILE : a manifest under its digest.
put_old() {
  curl -sS --fail -X PUT -H 'Content-Type: application/vnd.oci.image.manifest.v1+json' --data-binary "@$2" \
    "http://$OLD/v2/$1/manifests/sha256:$(sha256 "$2")"
}
collect() {
  docker-registry garbage-collect "$@" "$W/registry.yml" >"$W/collected" 2>&1 || { cat "$W/collected"; return 1; }
  ! grep -Ei 'error|failed|panic' "$W/collected"
}
# The word stands for an empty list, which could not be told from an answer that failed.
words() { jq -r "$1 | if length == 0 then \"none\" else sort | join(\" \") end"; }
repositories() { http "$URL/v2/_catalog" | words .repositories; }
tags() { http "$URL/v2/$1/tags/list" | words .tags; }
referrers() { http "$URL/v2/$1/referrers/$2" | words '[.manifests[].digest]'; }
# expect WHEN REPOSITORIES TAGS-OF-APP REFERRERS
expect() {
  same "$1: the catalog" "$2" "$(repositories)"
  same "$1: the tags" "$3" "$(tags team/app)"
  same "$1: the referrers" "$4" "$(referrers team/app "$subject")"
}

make_image "$W/image" 100000
make_image "$W/other" 100000
subject=$(digest_of "$W/image")
# A signature of the image: the image's own manifest with a subject, so that every blob is there already.
jq -c --arg digest "$subject" --argjson size "$(stat -c %s "$W/image/blobs/sha256/${subject#sha256:}")" \
  '. + {artifactType: "application/vnd.test.signature",
        subject: {mediaType: "application/vnd.oci.image.manifest.v1+json", digest: $digest, size: $size}}' \
  "$W/image/blobs/sha256/${subject#sha256:}" >"$W/signature"
signature=sha256:$(sha256 "$W/signature")

start_server "$W/home"
log_in >/dev/null
check "Boathouse takes images" push "$W/image" team/app:1
check "… and another tag" push "$W/other" team/app:other
check "… and another repository" push "$W/other" team/emptied:1
expect "pushed to Boathouse" "team/app team/emptied" "1 other" none
stop_server

start_old
check "2.8.2 takes a repository" push_old "$W/image" team/added:1
check "… a tag" push_old "$W/other" team/app:later
check "… a referrer" put_old team/app "$W/signature"
check "… and deletes an image with its tags" delete_old team/emptied "$(digest_of "$W/other")"
stop_server
start_server "$W/home"
expect "2.8.2 pushed and deleted" "team/added team/app team/emptied" "1 later other" "$signature"
same "… the tags of what it added" 1 "$(tags team/added)"
same "… and of what it emptied" none "$(tags team/emptied)"
stop_server

# Only the referrer: no directory's time changes, neither now nor when it comes back.
start_old
check "2.8.2 deletes the referrer" delete_old team/app "$signature"
stop_server
start_server "$W/home"
expect "2.8.2 deleted the referrer" "team/added team/app team/emptied" "1 later other" none
stop_server
start_old
check "2.8.2 takes the same referrer again" put_old team/app "$W/signature"
stop_server
start_server "$W/home"
expect "2.8.2 took the same again" "team/added team/app team/emptied" "1 later other" "$signature"
stop_server

# With tags, so that Boathouse reads the repository in between and forgets the referrer.
start_old
check "2.8.2 deletes the referrer once more" delete_old team/app "$signature"
check "… and an image with its tags" delete_old team/app "$(digest_of "$W/other")"
stop_server
start_server "$W/home"
expect "2.8.2 deleted both" "team/added team/app team/emptied" 1 none
stop_server
start_old
check "2.8.2 takes the referrer once more" put_old team/app "$W/signature"
stop_server
start_server "$W/home"
expect "2.8.2 took it after a reading" "team/added team/app team/emptied" 1 "$signature"
stop_server

check "2.8.2's collector removes what has no tag" collect --delete-untagged
start_server "$W/home"
expect "2.8.2 collected" "team/added team/app team/emptied" 1 none
check "… and what is left is served" pull team/app:1 "$W/image-back"
same_content "image after the collection" "$W/image" "$W/image-back"
stop_server
start_old
check "2.8.2 takes the image again that was collected" push_old "$W/other" team/app:other
check "… and the referrer" put_old team/app "$W/signature"
stop_server
start_server "$W/home"
expect "2.8.2 took again what it had collected" "team/added team/app team/emptied" "1 other" "$signature"
stop_server
