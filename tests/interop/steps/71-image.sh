# The OCI image of Boathouse itself, run by podman: as another user than root, with nothing writable but its volume. Its own image
# is pushed to it and pulled back; what it holds outlives a restart, and a container.

# Storage of its own, files copied instead of mounted, no systemd: nothing of the machine's podman is touched. The limits are
# those that a container may have where podman itself may not raise its own.
podman() {
  command podman --root "$W/storage" --runroot "$W/run" --storage-driver vfs --cgroup-manager cgroupfs \
    --events-backend none --runtime "$(command -v runc)" "$@"
}
# The name leads to ::1 only (lib/world.sh), so the image's own address is replaced.
run_registry() {
  podman run --detach --name registry --hostname "$HOST" --network host --read-only --cap-drop all \
    --ulimit nofile=20000:20000 --ulimit nproc=1000:1000 --env BOATHOUSE_ADMIN_PASSWORD="$PASSWORD" --volume data:/data \
    "$OWN" up --dir /data --addr "[::1]:$PORT" --host "$HOST" >/dev/null
}
serves() {
  wait_until 30 asks_for_credentials && return
  podman logs registry >&2
  return 1
}
login() { podman login --authfile "$W/auth.json" --username admin --password-stdin --cert-dir "$W/certs" "$REGISTRY" <<<"$PASSWORD"; }
push_image() { podman push --quiet --authfile "$W/auth.json" --cert-dir "$W/certs" "$1" "docker://$1"; }
pull_image() { podman pull --quiet --authfile "$W/auth.json" --cert-dir "$W/certs" "$1"; }
id_of() { podman image inspect --format '{{.Id}}' "$1"; }
echo "      $(podman --version)"

podman load --quiet --input "$IMAGE" >/dev/null
OWN=$(podman images --format '{{.Repository}}:{{.Tag}}')
same "the image is one layer, its user is not root" "1 65532:65532" \
  "$(podman image inspect --format '{{len .RootFS.Layers}} {{.User}}' "$OWN")"
same "it prints its version" "boathouse ${OWN##*:}" \
  "$(podman run --rm --network host --ulimit nofile=20000:20000 --ulimit nproc=1000:1000 "$OWN" --version)"

check "start" run_registry
CA=$(podman volume inspect --format '{{.Mountpoint}}' data)/ca.crt
check "it serves" serves
mkdir "$W/certs"
cp "$CA" "$W/certs/ca.crt"
check "its health check" podman healthcheck run registry
same "its commands find the server" 0 "$(podman exec registry boathouse status --dir /data --json | jq .repositories)"

image=$REGISTRY/team/boathouse:1
check "login" login
podman tag "$OWN" "$image"
check "push its own image" push_image "$image"
id=$(id_of "$OWN")
# Without the second name, podman would remove all of its names.
podman untag "$image" "$image"
refused "it is gone locally" 'no such image|not known' podman image inspect "$image"
check "pull" pull_image "$image"
same "the image id came back" "$id" "$(id_of "$image")"

check "restart" podman restart --time 20 registry
check "it serves again" serves
check "pull after the restart" pull_image "$image"
check "stop" podman stop --time 20 registry
same "it ended well" 0 "$(podman inspect --format '{{.State.ExitCode}}' registry)"
podman rm registry >/dev/null
check "another container on the same volume" run_registry
check "it serves" serves
check "pull from it" pull_image "$image"
podman rm --force --time 20 registry >/dev/null
