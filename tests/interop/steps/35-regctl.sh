# regctl: log in, push, pull, list, copy, delete; an index, artifacts with a subject; and who is refused.

start_server "$W/home"
make_image "$W/image"
make_index "$W/index"
digest=$(digest_of "$W/image")
echo '{"findings": 0}' >"$W/report.json"

# It would also find the CA where docker has it; here it is told by its own option.
rm -rf "$CERTS"
login() { regctl registry login --user admin --pass-stdin "$REGISTRY" <<<"$1"; }
# referrers REFERENCE OPTION… : the digests of what has it as subject.
referrers() { regctl artifact list --format '{{range .Descriptors}}{{println .Digest}}{{end}}' "$REGISTRY/$1" "${@:2}"; }
tags_of() { regctl tag ls "$REGISTRY/$1" | sort | paste -sd ' '; }
echo "      regctl $(regctl version --format '{{.VCSTag}}')"

refused "login while the CA is unknown" 'certificate signed by unknown authority' login "$PASSWORD"
check "the CA is trusted by its own option" regctl registry set --cacert "$(<"$CA")" "$REGISTRY"
refused "login with a wrong password" 'unauthorized' login wrong
refused "push without login" 'unauthorized' regctl image copy "ocidir://$W/image:latest" "$REGISTRY/team/app:1"
check "login" login "$PASSWORD"
refused "push with a wrong password" 'unauthorized' \
  regctl --host "reg=$REGISTRY,user=admin,pass=wrong" image copy "ocidir://$W/image:latest" "$REGISTRY/team/app:1"
refused "what was refused is not there" 'not found' regctl image digest "$REGISTRY/team/app:1"

check "push" regctl image copy "ocidir://$W/image:latest" "$REGISTRY/team/app:1"
same "the digest is the one that was pushed" "$digest" "$(regctl image digest "$REGISTRY/team/app:1")"
check "a second tag" regctl image copy "$REGISTRY/team/app:1" "$REGISTRY/team/app:2"
same "tags are listed" "1 2" "$(tags_of team/app)"
check "pull" regctl image copy "$REGISTRY/team/app:1" "ocidir://$W/back:latest"
same_content "pulled image" "$W/image" "$W/back"
check "export" regctl image export "$REGISTRY/team/app:1" "$W/app.tar"
check "import" regctl image import "$REGISTRY/team/imported:1" "$W/app.tar"
same "it is the same image" "$digest" "$(regctl image digest "$REGISTRY/team/imported:1")"

copies_by_mount "copy to another repository" other/app:1 2 0 \
  regctl image copy "$REGISTRY/team/app:1" "$REGISTRY/other/app:1"
same "the copy has the same digest" "$digest" "$(regctl image digest "$REGISTRY/other/app:1")"

check "push an index" regctl image copy "ocidir://$W/index:latest" "$REGISTRY/team/multi:1"
same "the index keeps its digest" "$(digest_of "$W/index")" "$(regctl image digest "$REGISTRY/team/multi:1")"
check "pull the index" regctl image copy "$REGISTRY/team/multi:1" "ocidir://$W/index-back:latest"
same_content "pulled index" "$W/index" "$W/index-back"
arm=$(regctl image digest --platform linux/arm64 "$REGISTRY/team/multi:1")
check "put an index together" regctl index create "$REGISTRY/team/joined:1" \
  --ref "$REGISTRY/team/multi@$arm" --ref "$REGISTRY/team/app:1"
same "it is an index of two" 2 \
  "$(regctl manifest get --format raw-body "$REGISTRY/team/joined:1" | jq '.manifests | length')"

check "an artifact with a subject" regctl artifact put --subject "$REGISTRY/team/app:1" \
  --artifact-type application/vnd.test.report --file "$W/report.json" --file-media-type application/json
artifact=$(referrers team/app:1)
check "it is found by its subject" test "$(grep -c ^sha256: <<<"$artifact")" -eq 1
same "… by its type" "$artifact" "$(referrers team/app:1 --filter-artifact-type application/vnd.test.report)"
check "… by no other type" test -z "$(referrers team/app:1 --filter-artifact-type application/vnd.test.other)"
regctl artifact get --subject "$REGISTRY/team/app:1" --filter-artifact-type application/vnd.test.report >"$W/report-back"
check "… and read" cmp "$W/report.json" "$W/report-back"
check "it goes along with a copy" regctl image copy --referrers "$REGISTRY/team/app:1" "$REGISTRY/third/app:1"
same "… and is found there" "$artifact" "$(referrers third/app:1)"
same "no tag stands for the referrers" "1 2" "$(tags_of team/app)"

check "delete a tag" regctl tag delete "$REGISTRY/team/app:2"
same "the other tag stays" 1 "$(tags_of team/app)"
check "delete by digest, with the referrers" regctl manifest delete --referrers "$REGISTRY/team/app@$artifact"
check "the artifact is gone" test -z "$(referrers team/app:1)"
check "delete the image" regctl manifest delete "$REGISTRY/team/app@$digest"
refused "what was deleted is unknown" 'not found' regctl image digest "$REGISTRY/team/app:1"
check "delete a blob" regctl blob delete "$REGISTRY/team/app" "sha256:$(sha256 "$W/report.json")"
refused "it is unknown" 'not found' regctl blob head "$REGISTRY/team/app" "sha256:$(sha256 "$W/report.json")"

short_pages
rm -rf "$CERTS"
push_many_tags "$W/image"
lists_many_tags regctl tag ls "$REGISTRY/team/many"
same "a page is where it is asked for" "t101 t102 t103" \
  "$(regctl tag ls --last t100 --limit 3 "$REGISTRY/team/many" | paste -sd ' ')"
same "repositories are listed" "other/app team/app team/imported team/joined team/many team/multi third/app" \
  "$(regctl repo ls "$REGISTRY" | sort | paste -sd ' ')"
check "logout" regctl registry logout "$REGISTRY"
refused "pull after logout" 'unauthorized' regctl image digest "$REGISTRY/other/app:1"
