# A real bucket in trouble in the middle of pushes: its server killed and gone for a minute, then Boathouse killed.

CLIENTS=4
CHUNK=$((8 * 1024 * 1024))
CHUNKS=12 # more than what is kept on this machine until its digest is known
AWAY_SECS=60

# send CURL-ARGUMENT… : the status; the answer's headers are in $head.
send() {
  curl -sS --max-time 60 --cacert "$CA" -u "admin:$PASSWORD" -H 'Expect:' -o "$head.body" -D "$head" -w '%{http_code}' "$@" || true
}
# offset : how much of the session at $location is stored, as the server says.
offset() {
  local answer
  answer=$(send "$location")
  echo "$answer" >>"$said"
  [[ $answer == 204 ]] || return 1
  answer=$(header range <"$head" | cut -d- -f2)
  # 0-0 means nothing or one byte; nobody here sends one byte.
  echo $((answer == 0 ? 0 : answer + 1))
}
# insistent NUMBER : pushes a blob of its own in chunks, and goes on where the server says after every answer 503 or none.
insistent() {
  local blob=$W/blob-$1 head=$W/head-$1 said=$W/said-$1 at=0 size=$((CHUNK * CHUNKS)) status location
  location=$(absolute "$(http -D - -X POST "$URL/v2/team/c$1/blobs/uploads/" | header location)")
  while ((at < size)); do
    dd if="$blob" of="$blob.chunk" bs=1M iflag=skip_bytes,count_bytes skip="$at" count="$CHUNK" status=none
    status=$(send --limit-rate 4M -X PATCH -H 'Content-Type: application/octet-stream' \
      -H "Content-Range: $at-$((at + $(stat -c %s "$blob.chunk") - 1))" --data-binary "@$blob.chunk" "$location")
    echo "$status" >>"$said"
    case $status in
      202) location=$(absolute "$(header location <"$head")") at=$((at + $(stat -c %s "$blob.chunk"))) ;;
      503 | 000 | 416) sleep 1; at=$(offset) || at=0 ;;
      *) return 1 ;;
    esac
    touch "$W/moving-$1"
  done
  for _ in {1..120}; do
    status=$(send -X PUT "$(with_digest "$location" "sha256:$(sha256 "$blob")")")
    echo "$status" >>"$said"
    [[ $status != 201 ]] || return 0
    [[ $status == 503 ]] || return 1
    grep -qi '^retry-after:' "$head" || { echo "503 without Retry-After" >>"$said"; return 1; }
    sleep 1
  done
  return 1
}
all_move() { (($(find "$W" -name 'moving-*' | wc -l) == CLIENTS)); }

start_s3 minio "$W/s3"
data_in_bucket
start_server "$W/home"
make_image "$W/image"
log_in >/dev/null
check "push before" push "$W/image" team/app:1
pushes=()
for number in $(seq "$CLIENTS"); do
  head -c "$((CHUNK * CHUNKS))" /dev/urandom >"$W/blob-$number"
  insistent "$number" &
  pushes+=($!)
done
check "$CLIENTS pushes are moving" wait_until 30 all_move
kill_s3
sleep 5
same "a pull is told to come again meanwhile" 503 "$(curl -s --max-time 60 --cacert "$CA" -u "admin:$PASSWORD" -o /dev/null \
  -w '%{http_code}' "$URL/v2/team/app/manifests/1")"
same "… and the server lives" 200 "$(anonymous "$URL/healthz")"
sleep $((AWAY_SECS - 5))
start_s3 minio "$W/s3"
lost=0
for push in "${pushes[@]}"; do wait "$push" || lost=$((lost + 1)); done
echo "      answers: $(cat "$W"/said-* | sort | uniq -c | awk '{print $2 " × " $1}' | paste -sd , | sed 's/,/, /g')"
same "the bucket was gone for $AWAY_SECS s in the middle of $CLIENTS pushes: sessions lost" 0 "$lost"
check "… and no session was unknown" bash -c '! grep -hx 404 "$@"' - "$W"/said-*
for number in $(seq "$CLIENTS"); do
  http "$URL/v2/team/c$number/blobs/sha256:$(sha256 "$W/blob-$number")" -o "$W/back" || true
  check "… the blob of push $number came back" cmp "$W/blob-$number" "$W/back"
done
check "pull after" pull team/app:1 "$W/image-back"
same_content "pulled after" "$W/image" "$W/image-back"
stop_server
same "nothing is half done in the bucket" 0 "$(s3 "$S3_ENDPOINT/$S3_BUCKET?uploads=" | grep -c '<Upload>' || true)"
