# A small world of its own for a run: what happens in it is gone when it ends.
#
# - Processes: the shell inside is process 1 of a new PID namespace, so the kernel ends whatever it leaves behind.
# - Network: loopback only and empty, so every port is free and nothing can be reached from or by the machine.
# - Files: /etc is a private copy (names, certs.d), /run, what podman and skopeo remember and what the system trusts beside
#   its own are empty, HOME is new; the rest lives in the directory $T.
# - Environment: HOME, PATH, TMPDIR and what is named in the call, nothing of the caller's (proxies, DOCKER_…, credentials).

# in_world VARIABLE=VALUE… -- PROGRAM ARGUMENT… : runs PROGRAM there; its exit status is the answer.
in_world() {
  local variables=()
  while [[ $1 != -- ]]; do
    variables+=("$1")
    shift
  done
  shift
  if ((EUID != 0)); then
    echo "error: this makes namespaces and starts a docker engine: run it as root" >&2
    exit 1
  fi
  T=$(mktemp -d "${TMPDIR:-/tmp}/boathouse-interop.XXXXXX")
  # Ended from outside, the world must end too: --kill-child takes everything in it along.
  trap 'leave_world' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  mkdir "$T/user"
  cp -a /etc "$T/etc"
  rm -rf "$T/etc/docker" "$T/etc/containers/certs.d"
  # docker treats 127.0.0.0/8 as insecure, so the name leads to ::1 only: there certificates are checked.
  printf '127.0.0.1 localhost\n::1 localhost boathouse.test\n' >"$T/etc/hosts"
  unshare --mount --propagation private --net --pid --fork --kill-child --mount-proc bash -euc '
    mount --bind "$1/etc" /etc
    mount -t tmpfs tmpfs /run
    mkdir -p /var/lib/containers
    mount -t tmpfs tmpfs /var/lib/containers
    [ ! -d /usr/local/share/ca-certificates ] || mount -t tmpfs tmpfs /usr/local/share/ca-certificates
    ip link set lo up
    shift
    exec env -i "$@"
  ' world "$T" HOME="$T/user" PATH="$PATH" T="$T" TMPDIR="$T" "${variables[@]}" "$@" </dev/null &
  WORLD=$!
  wait "$WORLD"
}

leave_world() {
  if [[ -n ${WORLD:-} ]]; then
    kill -KILL "$WORLD" 2>/dev/null || true
    wait "$WORLD" 2>/dev/null || true
  fi
  rm -rf "$T"
}
