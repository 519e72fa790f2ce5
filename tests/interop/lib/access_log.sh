# What the server was asked, by its own access log. A line is written when an answer has ended, so a little later than
# the client goes on: whoever expects a line waits for it.

LOG_MARK=0

# mark_log : `asked` counts from here on. A line of this very moment may still come: mark after what is waited for.
mark_log() { LOG_MARK=$(wc -l <"$T/server.log"); }

# asked ROUTE STATUS PATH : how many such requests there were; ROUTE is the server's name for it, PATH the beginning of
# the address.
asked() {
  tail -n "+$((LOG_MARK + 1))" "$T/server.log" |
    grep -c -- " path=$3[^ ]* route=\"$1\" status=$2 " || true
}

# was_asked LEAST ROUTE STATUS PATH : there were at least so many, within a second or two.
was_asked() { wait_until 2 has_been_asked "$@"; }
has_been_asked() { (($(asked "$2" "$3" "$4") >= $1)); }

# arrived REPOSITORY MOUNTED SENT : since the mark a manifest was put there, at least MOUNTED blobs were mounted, and no
# more than SENT were sent. Clients of the containers project mount layers and send the config.
arrived() {
  local blobs=/v2/$1/blobs/
  was_asked 1 manifest-put 201 "/v2/$1/manifests/" && was_asked "$2" upload-begin 201 "$blobs" &&
    (($(asked upload-finish 201 "$blobs") <= $3)) && return
  echo "mounted: $(asked upload-begin 201 "$blobs"), sent: $(asked upload-finish 201 "$blobs")"
  return 1
}

# copies_by_mount NAME REPOSITORY:TAG MOUNTED SENT COMMAND… : COMMAND puts an image there that another repository has.
# Twice: at first the server may say that it has the blobs; where they were just deleted it may not, so they are mounted.
copies_by_mount() {
  local name=$1 target=$2 mounted=$3 sent=$4
  shift 4
  mark_log
  check "$name" "$@"
  check "… without sending its blobs" arrived "${target%:*}" 0 "$sent"
  check "… what came there is deleted" forget_image "$target"
  mark_log
  check "$name once more" "$@"
  check "… by mounting them" arrived "${target%:*}" "$mounted" "$sent"
}
