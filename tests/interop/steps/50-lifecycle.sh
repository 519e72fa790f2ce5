# One instance per data directory; SIGTERM ends it within 10 seconds, also while a body is moving.

start_server "$W/home"

# Without the network of the first, so that only the data can be what is taken.
second() {
  timeout 20 unshare --net bash -c 'ip link set lo up; exec "$0" "$@"' \
    "$BOATHOUSE" up --dir "$DIR" --addr "[::1]:$PORT" --host "$HOST"
}
refused "a second instance on the same data" 'already|in use|another|locked' second
code=0
second >/dev/null 2>&1 || code=$?
check "… ends by itself with an error status" test "$code" -ne 0 -a "$code" -ne 124
same "… and the first still serves" 200 "$(anonymous "$URL/readyz")"

began=$SECONDS
kill -TERM "$SERVER"
check "SIGTERM ends it within 10 s" wait_for_end 10 "$SERVER"
same "… with status 0" 0 "${ENDED_WITH:-}"
echo "      idle: $((SECONDS - began)) s"

start_server "$W/home"
head -c 40000000 /dev/urandom >"$W/blob"
location=$(absolute "$(http -D - -X POST "$URL/v2/team/big/blobs/uploads/" | header location)")
http --limit-rate 1M -X PATCH -H 'Content-Type: application/octet-stream' -T "$W/blob" "$location" \
  >"$W/patch.log" 2>&1 &
patch=$!
sleep 2
check "a body is moving" kill -0 "$patch"
began=$SECONDS
kill -TERM "$SERVER"
check "SIGTERM ends it within 10 s while a body is moving" wait_for_end 11 "$SERVER"
same "… with status 0" 0 "${ENDED_WITH:-}"
echo "      with a moving body: $((SECONDS - began)) s"
kill "$patch" 2>/dev/null || true
