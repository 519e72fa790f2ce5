# oras: log in, push files, pull, attach and discover, copy, list, delete; an index; and who is refused.

start_server "$W/home"
make_index "$W/index"
make_image "$W/image" 100000
mkdir "$W/files" "$W/back" "$W/stolen"
cd "$W/files" || exit # names of files become titles
head -c 3000000 /dev/urandom >data
echo '{"findings": 0}' >report.json
echo 'signed' >report.sig

# oras COMMAND… ARGUMENT… : trusting the CA by its own option; a copy has two ends and so two options.
oras() { oras_without_trust "$@" --ca-file "$CA"; }
oras_without_trust() { command oras "$@" --registry-config "$W/auth.json"; }
oras_copy() {
  command oras cp "$@" --from-ca-file "$CA" --to-ca-file "$CA" \
    --from-registry-config "$W/auth.json" --to-registry-config "$W/auth.json"
}
copy_from_layout() { command oras cp --from-oci-layout "$@" --to-ca-file "$CA" --to-registry-config "$W/auth.json"; }
copy_to_layout() { command oras cp --to-oci-layout "$@" --from-ca-file "$CA" --from-registry-config "$W/auth.json"; }
login() { oras login --username admin --password-stdin "$REGISTRY" <<<"$1"; }
push_files() { oras push "$REGISTRY/$1" --artifact-type application/vnd.test.files data:application/octet-stream; }
pull_files() { oras pull "$REGISTRY/$1" --output "$2"; }
tags_of() { oras repo tags "$REGISTRY/$1" | sort | paste -sd ' '; }
# referrers REFERENCE OPTION… : the types of what has it as subject, of all levels.
referrers() {
  oras discover "$REGISTRY/$1" --format json "${@:2}" | jq -r '[.. | .artifactType? // empty] | sort | join(" ")'
}
echo "      oras $(command oras version | sed -n 's/^Version: *//p')"

refused "login with a wrong password" '401|unauthorized' login wrong
refused "login while the CA is unknown" 'certificate signed by unknown authority' \
  oras_without_trust login --username admin --password "$PASSWORD" "$REGISTRY"
refused "push without login" '401|unauthorized|basic credential not found' push_files team/files:1
check "login" login "$PASSWORD"
refused "push with a wrong password" '401|unauthorized' \
  oras push "$REGISTRY/team/files:1" data --username admin --password wrong
refused "push while the CA is unknown" 'certificate signed by unknown authority' \
  oras_without_trust push "$REGISTRY/team/files:1" data
refused "what was refused is not there" 'not found' oras resolve "$REGISTRY/team/files:1"

check "push" push_files team/files:1
digest=$(oras resolve "$REGISTRY/team/files:1")
check "pull" pull_files team/files:1 "$W/back"
check "the file came back" cmp data "$W/back/data"
check "two more tags" oras tag "$REGISTRY/team/files:1" 2 3
same "tags are listed" "1 2 3" "$(tags_of team/files)"

check "attach" \
  oras attach "$REGISTRY/team/files:1" --artifact-type application/vnd.test.report report.json:application/json
report=$(oras discover "$REGISTRY/team/files:1" --format json | jq -r '.referrers[0].digest')
check "attach to what is attached" \
  oras attach "$REGISTRY/team/files@$report" --artifact-type application/vnd.test.signature report.sig
same "discover" "application/vnd.test.report application/vnd.test.signature" "$(referrers team/files:1)"
same "discover one level" "application/vnd.test.report" "$(referrers team/files:1 --depth 1)"
same "discover by type" "application/vnd.test.report" \
  "$(referrers team/files:1 --depth 1 --artifact-type application/vnd.test.report)"
check "discover another type" test -z "$(referrers team/files:1 --artifact-type application/vnd.test.other)"
same "discover by the API only" "application/vnd.test.report application/vnd.test.signature" \
  "$(referrers team/files:1 --distribution-spec v1.1-referrers-api)"
same "no tag stands for the referrers" "1 2 3" "$(tags_of team/files)"
check "pull what was attached" pull_files "team/files@$report" "$W/back"
check "it came back" cmp report.json "$W/back/report.json"

copies_by_mount "copy to another repository" other/files:1 1 0 \
  oras_copy "$REGISTRY/team/files:1" "$REGISTRY/other/files:1"
check "copy with all that is attached" oras_copy --recursive "$REGISTRY/team/files:1" "$REGISTRY/third/files:1"
same "the copy has the same digest" "$digest" "$(oras resolve "$REGISTRY/third/files:1")"
same "the attached came along" "application/vnd.test.report application/vnd.test.signature" "$(referrers third/files:1)"

check "push an index" copy_from_layout "$W/index:latest" "$REGISTRY/team/multi:1"
same "the index keeps its digest" "$(digest_of "$W/index")" "$(oras resolve "$REGISTRY/team/multi:1")"
check "pull the index" copy_to_layout "$REGISTRY/team/multi:1" "$W/index-back:latest"
same_content "pulled index" "$W/index" "$W/index-back"
arm=$(oras resolve --platform linux/arm64 "$REGISTRY/team/multi:1")
check "put an index together" oras manifest index create "$REGISTRY/team/multi:2" "$arm"
same "it is an index of one" 1 "$(oras manifest fetch "$REGISTRY/team/multi:2" | jq '.manifests | length')"
check "attach to one platform" \
  oras attach "$REGISTRY/team/multi:1" --platform linux/arm64 --artifact-type application/vnd.test.report report.json
same "discover it there" "application/vnd.test.report" "$(referrers "team/multi@$arm")"

echo 'in no manifest' >stray
stray=$REGISTRY/team/files@sha256:$(sha256 stray)
check "push a blob" oras blob push "$REGISTRY/team/files" stray
check "fetch it" oras blob fetch --output "$W/back/stray" "$stray"
check "delete it" oras blob delete --force "$stray"
refused "it is unknown" 'not found' oras blob fetch --output "$W/stolen/stray" "$stray"
check "delete a tag's manifest" oras manifest delete --force "$REGISTRY/other/files:1"
refused "what was deleted is unknown" 'not found' oras resolve "$REGISTRY/other/files:1"
same "the other repository keeps it" "$digest" "$(oras resolve "$REGISTRY/team/files:1")"
check "delete what was attached" oras manifest delete --force "$REGISTRY/team/files@$report"
check "discover no more" test -z "$(referrers team/files:1)"

short_pages
push_many_tags "$W/image"
lists_many_tags oras repo tags "$REGISTRY/team/many"
same "repositories are listed" "other/files team/files team/many team/multi third/files" \
  "$(oras repo ls "$REGISTRY" | sort | paste -sd ' ')"
check "logout" command oras logout --registry-config "$W/auth.json" "$REGISTRY"
refused "pull after logout" '401|unauthorized|basic credential not found' pull_files team/files:1 "$W/stolen"
