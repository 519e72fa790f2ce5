# Checks: each prints one line, `ok …` or `FAIL …`, and none ends the run. The results file is what is counted.

result() { tee -a "$T/results" <<<"$*"; }

ok() { result "ok    $STEP: $*"; }

# fail NAME [FILE] : FILE holds what was printed, and its end is shown.
fail() {
  result "FAIL  $STEP: $1"
  [[ -z ${2:-} ]] || tail -n 15 "$2" | sed 's/^/      | /'
}

# not_run NAME : what this run leaves out, because it cannot be installed by name and was not given; the summary says so.
not_run() {
  echo "$1" >>"$T/not-run"
  echo "      not run: $1"
}

# check NAME COMMAND… : ok when the command succeeds.
check() {
  local name=$1
  shift
  if "$@" >"$T/output" 2>&1; then ok "$name"; else fail "$name" "$T/output"; fi
}

# refused NAME REASON COMMAND… : ok when the command fails and says REASON (an extended regular expression).
refused() {
  local name=$1 reason=$2
  shift 2
  if "$@" >"$T/output" 2>&1; then
    fail "$name: was accepted" "$T/output"
  elif grep -Eqi -- "$reason" "$T/output"; then
    ok "$name"
  else
    fail "$name: refused, but not for this reason: $reason" "$T/output"
  fi
}

# same NAME EXPECTED ACTUAL : ok when both are equal and not empty.
same() {
  if [[ -n $2 && $2 == "$3" ]]; then
    ok "$1"
  else
    fail "$1"
    printf '      | expected: %s\n      | actual:   %s\n' "$2" "$3"
  fi
}

# wait_until SECONDS COMMAND… : succeeds as soon as the command does.
wait_until() {
  local end=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < end)) || return 1
    sleep 0.1
  done
}

# wait_for_end SECONDS PID : succeeds when the process has ended in time; ENDED_WITH is then its exit status.
wait_for_end() {
  wait_until "$1" bash -c '! kill -0 "$1"' - "$2" || return 1
  ENDED_WITH=0
  wait "$2" 2>/dev/null || ENDED_WITH=$?
}

sha256() { sha256sum "$@" | cut -d' ' -f1; }
