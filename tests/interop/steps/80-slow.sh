# Two real minutes at 64 KiB/s, push and pull, and two minutes of silence. It runs beside the other steps (lib/run_steps).

PORT=5444
REGISTRY=$HOST:$PORT
URL=https://$REGISTRY
CERTS=/etc/docker/certs.d/$REGISTRY

# begin REPOSITORY : the address of a new upload.
begin() { absolute "$(http -D - -X POST "$URL/v2/$1/blobs/uploads/" | header location)"; }
patch() { http -X PATCH -H 'Content-Type: application/octet-stream' "$@"; }
# range ADDRESS : how far the upload is.
range() { http -D - -o /dev/null "$1" | header range; }
is_free() { [[ $(range "$1") == "$2" ]]; }

start_server "$W/home"

head -c $((120 * 64 * 1024)) /dev/urandom >"$W/blob"
digest=sha256:$(sha256 "$W/blob")
head -c $((64 * 1024 * 1024)) /dev/urandom >"$W/large"
large=sha256:$(sha256 "$W/large")
location=$(begin team/large)
http -o /dev/null -T "$W/large" "$(with_digest "$location" "$large")"

began=$SECONDS
location=$(begin team/slow)
patch --limit-rate 64K -T "$W/blob" "$location" >"$W/push.log" 2>&1 &
push=$!
# More than the two systems between server and client hold, so that most of it has to be read in time.
http --limit-rate 64K --max-time 180 -o "$W/part" "$URL/v2/team/large/blobs/$large" >"$W/pull.log" 2>&1 &
pull=$!
silent=$(begin team/silent)
(head -c 1000000 "$W/blob" && sleep 300) |
  curl -sS --cacert "$CA" -u "admin:$PASSWORD" -H 'Expect:' -H 'Content-Type: application/octet-stream' --http1.1 \
    -o "$W/silent.answer" -w '%{http_code}' -X PATCH -T . "$silent" >"$W/silent.status" 2>"$W/silent.log" &

check "a push at 64 KiB/s ends" wait_for_end 180 "$push"
same "… well" 0 "$ENDED_WITH"
took=$((SECONDS - began))
echo "      it took $took s"
check "… after two minutes" test "$took" -ge 115
same "… and is a blob" 201 "$(http -o /dev/null -w '%{http_code}' -X PUT "$(with_digest "$location" "$digest")")"
http -o "$W/blob-back" "$URL/v2/team/slow/blobs/$digest"
check "… that comes back" cmp "$W/blob" "$W/blob-back"

check "a silent push is answered" wait_until 60 test -s "$W/silent.status"
took=$((SECONDS - began))
echo "      after $took s"
same "… with 408" 408 "$(<"$W/silent.status")"
check "… and its session stands where it was" wait_until 10 is_free "$silent" 0-999999
tail -c +1000001 "$W/blob" >"$W/rest"
check "… and goes on there" patch -H "Content-Range: 1000000-$((120 * 64 * 1024 - 1))" -T "$W/rest" "$silent"
same "… to its end" 201 "$(http -o /dev/null -w '%{http_code}' -X PUT "$(with_digest "$silent" "$digest")")"

check "a pull at 64 KiB/s is still going on after three minutes" wait_for_end 200 "$pull"
# 28: the client ended it. On a machine that was very busy it was once found ended before (18), its client still reading what
# lay in buffers: then what came must at least be more than two minutes of it, and the server's log is shown.
((ENDED_WITH == 28)) || { cat "$W/pull.log"; grep -v '"/v2/token' "$T/server.log" | tail -n 15 || true; }
size=$(stat -c %s "$W/part")
echo "      $size bytes were pulled"
check "… after more than two minutes' worth of bytes" test "$size" -gt $((130 * 64 * 1024))
check "… and has what it was given" cmp -n "$size" "$W/part" "$W/large"
