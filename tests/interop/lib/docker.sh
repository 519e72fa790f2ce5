# The docker engine of Debian's docker.io, with its own client.

# By path: a newer client may come first in PATH, and this one is the engine's own.
docker() { /usr/bin/docker --host "unix://$T/docker.sock" "$@"; }

# start_docker : an engine of this step's own answers afterwards, or the step has ended with a reason.
start_docker() {
  [[ -x /usr/bin/docker ]] || { fail "there is no /usr/bin/docker (newer Debian: package docker-cli)"; exit 1; }
  # No bridge, no packet filter, files copied instead of mounted: an engine that moves images and runs nothing.
  dockerd --bridge=none --iptables=false --ip6tables=false --storage-driver=vfs \
    --data-root "$W/engine" --exec-root "$W/exec" --pidfile "$W/docker.pid" --host "unix://$T/docker.sock" \
    >"$W/dockerd.log" 2>&1 &
  if ! wait_until 60 docker version; then
    fail "the engine does not start" "$W/dockerd.log"
    exit 1
  fi
  echo "      $(dockerd --version); client: $(/usr/bin/docker --version)"
}
