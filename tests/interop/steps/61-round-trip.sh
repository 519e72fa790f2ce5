# The guide's installation taken over as it stands, and handed back: docker-registry 2.8.2, then distribution 3.1.2, each
# twice around, behind nginx. What one program shows, the next shows too, byte for byte.

guide_files
start_nginx
make_image "$W/image"
make_image "$W/small" 100000
make_image "$W/big" 40000000
make_index "$W/index"
cd "$W" || exit # names of files become titles, and cosign's keys are found here
echo '{"findings": 0}' >report.json
export COSIGN_PASSWORD=a-password-of-a-key SSL_CERT_FILE=$STORE_CA
[[ -n $DOCKER_AUTH_BIN ]] || not_run docker_auth

guide=(--config "$REGISTRY_YML" --config "$AUTH_YML")
echo 'compatibility: {referrers_fallback_tags: false}' >without.yml

oras() { command oras "$@" --registry-config "$W/oras.json"; }
attach() { oras attach "$STORE/$1" --artifact-type "application/vnd.test.$2" report.json:application/json; }
# referrers REFERENCE : the types of what has it as subject, whichever way this registry shows them.
referrers() {
  oras discover "$STORE/$1" --format json | jq -r '[.referrers[]?.artifactType | sub(".*[.]test[.]"; "")] | sort | join(" ")'
}
sign() { cosign sign --yes --key cosign.key --use-signing-config=false --tlog-upload=false "$@"; }
verify() { cosign verify --key cosign.pub --insecure-ignore-tlog "$@"; }
forget() { skopeo delete --authfile "$AUTH" "docker://$STORE/$1"; }

# collects PROGRAM [OPTION…] : the real collector of a registry that is not running; it finds no fault with the tree.
collects() {
  "$1" garbage-collect "${@:2}" "$REGISTRY_YML" >"$W/collected" 2>&1 || { cat "$W/collected"; return 1; }
  ! grep -Ei 'error|failed|panic' "$W/collected"
}
# untagged STOCK : the manifests in it that have no tag of their own.
untagged() {
  awk '/@/ { all[$1] = 1; next }
    NF == 2 { sub(/:[^:]*$/, "", $1); tagged[$1 "@" $2] = 1 }
    END { for (manifest in all) if (!(manifest in tagged)) print manifest }' "$1" | sort
}

# shows NAME MAY : what is served is what was served last, and each account may do what the file MAY says.
shows() {
  stock "$W/stock-now"
  check "$1: every image, byte for byte" diff "$W/stock" "$W/stock-now"
  may "$W/may-now"
  check "$1: each account may do what it could" diff "$2" "$W/may-now"
}

# noted FILE : the notes of `check --hand-back --json`, without the places; one kind in a line.
noted() { jq -r '.notes[].what' "$1" | sort -u; }
# What only the collector of 2.8 with -m deletes, and what only clients of long ago do not accept. Nothing else is in the way.
KNOWN='OCI indexes
untagged manifests that an index lists
untagged manifests that refer to others'

# around VERSION PROGRAM LAP : the first time without fallback tags, so that `hand-back` has them all to write.
around() {
  local version=$1 program=$2 lap=$3 attached='new1 old1' more=(--config "$W/without.yml")
  ((lap == 1)) || { attached='new1 new2 old1 old2' more=(); }
  start_old "$program"
  check "$version takes an image" store_push "$W/image" "team/app:$lap"
  check "… one that is public" store_push "$W/small" "public/app:$lap"
  check "… one that is public too deep to be found" store_push "$W/small" "public/deep/app:$lap"
  check "… an index" store_push "$W/index" "team/multi:$lap"
  check "… Docker's format" copy --format v2s2 "oci:$W/image:latest" "docker://$STORE/team/docker:$lap"
  check "… what is attached" attach "team/app:$lap" "old$lap"
  check "… a signature" sign --new-bundle-format=false "$STORE/team/app:$lap"
  check "… what is deleted later" store_push "$W/small" "team/gone:$lap"
  stock "$W/stock"
  may "$W/may"
  stop_old
  # An account of ours lists what it may pull, here nothing; the old registries refuse it the list.
  sed 's|^test GET /v2/_catalog 401$|test GET /v2/_catalog 200|' "$W/may" >"$W/may-ours"

  start_taken_over "${more[@]}"
  shows "Boathouse in the place of $version" "$W/may-ours"
  check "Boathouse takes an image" store_push "$W/small" "team/later:$lap"
  check "… a big one" store_push "$W/big" "team/big:$lap"
  check "… a tag that moves" store_push "$W/image" "team/later:moves"
  check "… an index by another tag" store_push "$W/index" "team/multi:again"
  check "… what is attached" attach "team/app:$lap" "new$lap"
  check "… a signature" sign "$STORE/team/multi:$lap"
  check "… a deletion" forget "team/gone:$lap"
  check "it verifies the signature of before" verify --new-bundle-format=false "$STORE/team/app:$lap"
  same "it shows all that is attached" "$attached" "$(referrers "team/app:$lap")"
  stock "$W/stock"
  stop_server
  if ((lap == 1)); then
    "$BOATHOUSE" check --hand-back --json "${guide[@]}" "${more[@]}" >"$W/found" && fail "nothing is in the way back"
    check "what is attached is in the way back to $version" \
      grep -F 'what refers to a manifest is not listed by its fallback tag' "$W/found"
    check "… and is written" "$BOATHOUSE" hand-back "${guide[@]}" "${more[@]}"
    start_taken_over
    stock "$W/stock"
    stop_server
  fi
  "$BOATHOUSE" hand-back --json "${guide[@]}" >"$W/written" || fail "hand-back fails"
  same "hand-back has nothing more to write" 0 "$(jq '[.written | del(.repositories) | .[]] | add' "$W/written")"
  "$BOATHOUSE" check --hand-back --json "${guide[@]}" >"$W/found" || fail "something is in the way back"
  same "nothing is to be known of the way back but this" "$KNOWN" "$(noted "$W/found")"

  start_old "$program"
  shows "$version again" "$W/may"
  same "$version shows all that is attached" "$attached" "$(referrers "team/app:$lap")"
  check "… and verifies what was signed meanwhile" verify "$STORE/team/multi:$lap"
  stop_old
  check "$version's collector plans" collects "$program" --dry-run
  check "$version's collector runs" collects "$program"
  start_old "$program"
  shows "$version after its collector" "$W/may"
  stop_old
}

# collects_untagged VERSION PROGRAM : the collector with -m, which deletes manifests without a tag; on a copy of the data.
collects_untagged() {
  local version=$1 program=$2
  cp -a "$STORE_DATA" "$W/kept"
  check "$version's collector plans with -m" collects "$program" --delete-untagged --dry-run
  check "$version's collector runs with -m" collects "$program" --delete-untagged
  start_old "$program"
  if [[ $version == 2.8.2 ]]; then
    # It takes what only an index names for untagged, in what it took itself too.
    stock "$W/stock-now"
    same "2.8.2 loses with -m what has no tag of its own, and only that" \
      "$(untagged "$W/stock")" "$(sed -n 's/ 404$//p' "$W/stock-now" | sort)"
  else
    shows "$version after its collector with -m" "$W/may"
    same "… and what is attached" 'new1 new2 old1 old2' "$(referrers team/app:1)"
    check "… and what is signed" verify "$STORE/team/multi:2"
  fi
  stop_old
  rm -rf "$STORE_DATA"
  mv "$W/kept" "$STORE_DATA"
}

for pair in 2.8.2=docker-registry 3.1.2=registry; do
  rm -rf "$STORE_DATA"
  mkdir "$STORE_DATA"
  # 3.1 knows docker_auth's key by this name only.
  [[ $pair != 3.* ]] || sed -i 's/^token:$/token:\n  disable_legacy_key_id: true/' "$AUTH_YML"
  start_old "${pair#*=}"
  store_login >"$W/login"
  oras login --username tjarosik --password-stdin "$STORE" <<<tjarosik-password >"$W/login" 2>&1
  cosign login --username tjarosik --password-stdin "$STORE" <<<tjarosik-password >"$W/login" 2>&1
  [[ -e cosign.key ]] || cosign generate-key-pair >"$W/login" 2>&1
  stop_old
  for lap in 1 2; do around "${pair%%=*}" "${pair#*=}" "$lap"; done
  collects_untagged "${pair%%=*}" "${pair#*=}"
done

# Each file alone: two processes again, with one of ours as the registry.
start_issuer
start_registry "$BOATHOUSE" --config
shows "Boathouse by the registry's file alone" "$W/may"
check "… takes an image with the token of another process" store_push "$W/small" team/alone:1
stop_old
