# cosign: log in, sign with a key, verify, attest, save and load, clean; and who is refused. Signatures as bundles that
# name their subject (what version 3 does unasked), as a tag (what it did before), and in the old format with a subject.
#
# Nothing goes to a transparency log, and nobody is asked for the time. `cosign login` asks nobody either, so a wrong
# password is noticed by the next command. cosign lists no tags.

start_server "$W/home"
make_image "$W/image" 100000
make_index "$W/index"
digest=$(digest_of "$W/image")
log_in >/dev/null
for repository in bundle tag subject; do push "$W/image" "team/$repository:1"; done
push "$W/index" team/multi:1
cd "$W" || exit # keys are found here
export COSIGN_PASSWORD=a-password-of-a-key

cosign() { SSL_CERT_FILE=$CA command cosign "$@"; }
cosign_without_trust() { command cosign "$@"; }
login() { cosign login --username admin --password-stdin "$REGISTRY" <<<"$1"; }
offline=(--yes --key cosign.key --use-signing-config=false --tlog-upload=false)
sign() { cosign sign "${offline[@]}" "$@"; }
# verify KEY ARGUMENT… : with the public half of KEY.
verify() { cosign verify --key "$1.pub" --insecure-ignore-tlog --output json "${@:2}"; }
verify_attestation() { cosign verify-attestation --key "$1.pub" --insecure-ignore-tlog --type custom "${@:2}"; }
tags_of() { http "$URL/v2/$1/tags/list" | jq -r '.tags | join(" ")'; }
# referrers REPOSITORY : the types of what has the image as subject there.
referrers() { http "$URL/v2/$1/referrers/$digest" | jq -r '[.manifests[].artifactType] | join(" ")'; }
echo "      cosign $(command cosign version 2>&1 | sed -n 's/^GitVersion: *//p')"

bundle=application/vnd.dev.sigstore.bundle.v0.3+json
no_signature='no signatures found'
image=$REGISTRY/team/bundle@$digest
check "make a key pair" cosign generate-key-pair
check "… and another" cosign generate-key-pair --output-key-prefix other
refused "sign without login" 'UNAUTHORIZED|authentication required' sign "$image"
login wrong 2>"$W/login"
refused "sign with a wrong password" 'UNAUTHORIZED|401' sign "$image"
check "login" login "$PASSWORD"
refused "sign while the CA is unknown" 'certificate signed by unknown authority' \
  cosign_without_trust sign "${offline[@]}" "$image"
refused "verify what nobody signed" "$no_signature" verify cosign "$image"

check "sign" sign "$image"
check "verify" verify cosign "$image"
refused "verify with another key" 'no matching signatures|invalid signature|failed to verify' verify other "$image"
same "the signature is a bundle with a subject" "$bundle" "$(referrers team/bundle)"
same "… and no tag" 1 "$(tags_of team/bundle)"
echo '{"builder": "test"}' >predicate.json
check "attest" cosign attest "${offline[@]}" --type custom --predicate predicate.json "$image"
check "verify the attestation" verify_attestation cosign "$image"
refused "verify it with another key" 'no matching attestations|invalid signature|failed to verify' \
  verify_attestation other "$image"
same "both have the subject" "$bundle $bundle" "$(referrers team/bundle)"

image=$REGISTRY/team/multi:1
check "sign an index with its images" sign --recursive "$image"
check "verify the index" verify cosign "$image"
for child in $(http "$URL/v2/team/multi/manifests/1" | jq -r '.manifests[].digest'); do
  check "verify one of its images" verify cosign "$REGISTRY/team/multi@$child"
done

image=$REGISTRY/team/tag@$digest
check "sign, as a tag" sign --new-bundle-format=false "$image"
same "the signature is a tag" "1 ${digest/:/-}.sig" "$(tags_of team/tag)"
check "… and has no subject" test -z "$(referrers team/tag)"
check "verify by tag" verify cosign --new-bundle-format=false "$image"
check "verify without knowing how it was signed" verify cosign "$image"
refused "verify by tag with another key" 'no matching signatures|invalid signature' \
  verify other --new-bundle-format=false "$image"
check "sign once more" sign --new-bundle-format=false --annotations by=second "$image"
same "the tag holds both" 2 "$(verify cosign --new-bundle-format=false "$image" 2>"$W/verify" | jq length)"

export COSIGN_EXPERIMENTAL=1 # asks for the mode below
image=$REGISTRY/team/subject@$digest
check "sign, in the old format with a subject" sign --new-bundle-format=false --registry-referrers-mode=oci-1-1 "$image"
same "the signature has a subject" application/vnd.dev.cosign.artifact.sig.v1+json "$(referrers team/subject)"
same "… and is no tag" 1 "$(tags_of team/subject)"
check "verify by subject" verify cosign --new-bundle-format=false --experimental-oci11 "$image"
unset COSIGN_EXPERIMENTAL

check "save the image with its signatures" cosign save --dir "$W/saved" "$REGISTRY/team/tag@$digest"
check "load them into another repository" cosign load --dir "$W/saved" "$REGISTRY/other/tag:1"
check "verify them there" verify cosign --new-bundle-format=false "$REGISTRY/other/tag:1"
check "clean tags" cosign clean --force "$REGISTRY/team/tag@$digest"
same "the tag is gone" 1 "$(tags_of team/tag)"
refused "verify what was cleaned" "$no_signature" verify cosign "$REGISTRY/team/tag@$digest"
check "the other repository keeps it" verify cosign --new-bundle-format=false "$REGISTRY/other/tag:1"
check "clean what has the image as subject" cosign clean --force --type all "$REGISTRY/team/bundle@$digest"
check "nothing has it any more" test -z "$(referrers team/bundle)"
refused "verify what was cleaned" "$no_signature" verify cosign "$REGISTRY/team/bundle@$digest"
