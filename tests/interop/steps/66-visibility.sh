# HEAD of a blob that another repository has: told to who may push here and pull there, to nobody else.

OTHER=another-password-for-tests
OTHER_HASH='$2b$10$CflXOvd7UUcHEkOLIi/s9OhzPnTg7g1idW7aXlmHgZNF1Ku7gjbSW'

# as ACCOUNT CURL-ARGUMENT… : the status of a request with that account's password.
as() { anonymous -u "$1:$OTHER" -H 'Expect:' "${@:2}"; }
# with_token ACCOUNT SCOPE CURL-ARGUMENT… : the same with a token.
with_token() {
  local token
  token=$(curl -sS --fail --cacert "$CA" -u "$1:$OTHER" "$URL/token?service=boathouse&scope=$2" | jq -er .token)
  anonymous -H "Authorization: Bearer $token" -H 'Expect:' "${@:3}"
}
knows_accounts() { [[ $(as one "$URL/v2/") == 200 && $(as both "$URL/v2/") == 200 ]]; }
# upload ACCOUNT REPOSITORY FILE : the status.
upload() { as "$1" --data-binary "@$3" "$URL/v2/$2/blobs/uploads/?digest=sha256:$(sha256 "$3")"; }
is_known() { [[ $(as both --head "$URL/v2/team/a/blobs/$1") == 200 ]]; }

# blob LAYOUT DIGEST : its file.
blob() { echo "$1/blobs/sha256/${2#sha256:}"; }

make_image "$W/image" 100000
make_image "$W/other" 100000
manifest=$(blob "$W/image" "$(digest_of "$W/image")")
layer=$(jq -r '.layers[0].digest' "$manifest")
other_layer=$(jq -r '.layers[0].digest' "$(blob "$W/other" "$(digest_of "$W/other")")")

start_server "$W/home"
log_in >/dev/null
sed -i -e "/^users:/a\\  one: {password: '$OTHER_HASH'}\\n  both: {password: '$OTHER_HASH'}" \
  -e '/^acl:/a\  - {match: {account: "/^(one|both)$/", name: "team/a"}, actions: ["*"]}\n  - {match: {account: both, name: team/b}, actions: [pull]}' \
  "$DIR/users.yml"
kill -HUP "$SERVER"
check "two accounts come in" wait_until 5 knows_accounts
check "the admin fills team/b" push "$W/image" team/b:1
check "… with two images" push "$W/other" team/b:other

# The index hears of it a moment later.
check "HEAD in team/a tells of a layer in team/b to who has rights for both" wait_until 5 is_known "$layer"
same "… with a token that names team/a only" 200 \
  "$(with_token both repository:team/a:pull,push --head "$URL/v2/team/a/blobs/$layer")"
same "… with its length" "$(stat -c %s "$(blob "$W/image" "$layer")")" \
  "$(curl -sS --cacert "$CA" -u "both:$OTHER" --head "$URL/v2/team/a/blobs/$layer" | header content-length)"
same "… but not with a token that only pulls" 404 \
  "$(with_token both repository:team/a:pull --head "$URL/v2/team/a/blobs/$layer")"
same "… nor to who has no rights for team/b" 404 "$(as one --head "$URL/v2/team/a/blobs/$layer")"
same "… by a token neither" 404 "$(with_token one repository:team/a:pull,push --head "$URL/v2/team/a/blobs/$layer")"
same "GET keeps what HEAD has told" 200 "$(as both "$URL/v2/team/a/blobs/$layer")"
same "… with the same token" 200 "$(with_token both repository:team/a:pull,push "$URL/v2/team/a/blobs/$layer")"
same "… not with one that only pulls" 404 "$(with_token both repository:team/a:pull "$URL/v2/team/a/blobs/$layer")"
same "… nor for who has no rights for team/b" 404 "$(as one "$URL/v2/team/a/blobs/$layer")"

same "who has no rights for team/b cannot link it by a manifest" 400 "$(as one -X PUT --data-binary "@$manifest" \
  -H 'Content-Type: application/vnd.oci.image.manifest.v1+json' "$URL/v2/team/a/manifests/1")"
uploads() { grep -c 'account=both.*upload-begin\|upload-begin.*account=both' "$T/server.log" || true; }
check "skopeo pushes for who has" copy --preserve-digests --dest-creds "both:$OTHER" "oci:$W/image:latest" \
  "docker://$REGISTRY/team/a:1"
same "… without an upload" 0 "$(uploads)"
same "… and the layer is there" 200 "$(as one "$URL/v2/team/a/blobs/$layer")"

same "a layer is deleted in team/a" 202 "$(as both -X DELETE "$URL/v2/team/a/blobs/$layer")"
same "… and gone there" 404 "$(as both --head "$URL/v2/team/a/blobs/$layer")"
same "… for GET as well" 404 "$(as both "$URL/v2/team/a/blobs/$layer")"
same "… and in team/b it is not" 200 "$(as both --head "$URL/v2/team/b/blobs/$layer")"
stop_server
start_server "$W/home"
check "after a restart HEAD tells of another layer" wait_until 5 is_known "$other_layer"
same "… and the deleted one is gone still" 404 "$(as both --head "$URL/v2/team/a/blobs/$layer")"
same "… until it is sent again" 201 "$(upload both team/a "$(blob "$W/image" "$layer")")"
same "… as the log of requests shows" 1 "$(uploads)"
same "… and then HEAD tells of it" 200 "$(as both --head "$URL/v2/team/a/blobs/$layer")"
stop_server
