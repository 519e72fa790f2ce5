# SIGKILL: between push and pull, and in the middle of a push that then goes on where it stopped.

start_server "$W/home"
make_image "$W/image"
log_in >/dev/null
check "push" push "$W/image" team/app:1
kill_server
start_server "$W/home"
check "pull after SIGKILL" pull team/app:1 "$W/back"
same_content "pulled after SIGKILL" "$W/image" "$W/back"

size=$((24 * 1024 * 1024))
head -c "$size" /dev/urandom >"$W/blob"
digest=sha256:$(sha256 "$W/blob")
location=$(absolute "$(http -D - -X POST "$URL/v2/team/big/blobs/uploads/" | header location)")
http --limit-rate 4M -X PATCH -H 'Content-Type: application/octet-stream' -T "$W/blob" "$location" \
  >"$W/patch.log" 2>&1 &
patch=$!

some_bytes_are_stored() {
  [[ -n $(find "$DIR" -path "*/team/big/_uploads/*/data" -size +4096k) ]]
}
check "a part of the blob is stored" wait_until 20 some_bytes_are_stored
check "the push is still going on" kill -0 "$patch"
kill_server
check "its client ends" wait_for_end 20 "$patch"
check "… and noticed" test "$ENDED_WITH" -ne 0

start_server "$W/home"
http -D "$W/status" "$location" -o /dev/null
offset=$(($(header range <"$W/status" | cut -d- -f2) + 1))
echo "      $offset of $size bytes survived"
check "the offset lies inside the blob" test "$offset" -gt 1 -a "$offset" -lt "$size"
location=$(absolute "$(header location <"$W/status")")
tail -c "+$((offset + 1))" "$W/blob" >"$W/rest"
location=$(absolute "$(http -D - -X PATCH -H 'Content-Type: application/octet-stream' \
  -H "Content-Range: $offset-$((size - 1))" --data-binary "@$W/rest" "$location" | header location)")
same "the rest completes it" 201 \
  "$(http -o "$W/put" -w '%{http_code}' -X PUT "$(with_digest "$location" "$digest")")"
http "$URL/v2/team/big/blobs/$digest" -o "$W/blob-back"
check "the blob came back" cmp "$W/blob" "$W/blob-back"
