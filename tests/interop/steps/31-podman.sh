# podman: log in, push, pull, list, an index, a mount; and who is refused. It runs nothing, it only moves images.
#
# podman deletes nothing in a registry: that is done through the API here. Its certificates are where `up` says.

rm -rf "$CERTS"
CERTS=$HOME/.config/containers/certs.d/$REGISTRY
start_server "$W/home"
make_image "$W/image"
name_latest "$W/other" "$(add_image "$W/other" arm64 100000)"

# Storage of its own, files copied instead of mounted, no systemd: nothing of the machine's podman is touched.
podman() {
  command podman --root "$W/storage" --runroot "$W/run" --storage-driver vfs --cgroup-manager cgroupfs \
    --events-backend none "$@"
}
login() { podman login --authfile "$W/auth.json" --username admin --password-stdin "$REGISTRY" <<<"$1"; }
push_image() { podman push --quiet --authfile "$W/auth.json" "$1" "docker://$1"; }
pull_image() { podman pull --quiet --authfile "$W/auth.json" "$@"; }
id_of() { podman image inspect --format '{{.Id}}' "$1"; }
list_tags() {
  podman search --list-tags --limit 1000 --format json --authfile "$W/auth.json" "$REGISTRY/team/many" |
    jq -r '.[].Tags[]'
}
echo "      $(podman --version)"

image=$REGISTRY/team/app:1
cd "$W" || exit # podman makes a name of an image's path, and names have no upper case
id=$(podman pull --quiet oci:image:latest)
podman tag "$id" "$image" "$REGISTRY/other/app:1"

echo '{}' >"$W/auth.json" # before a login podman must not miss it
refused "login with a wrong password" 'invalid username/password' login wrong
refused "login while the CA is unknown" 'certificate signed by unknown authority' without_trust login "$PASSWORD"
refused "push without login" 'unauthorized|authentication required' push_image "$image"
check "login" login "$PASSWORD"
refused "push with a wrong password" 'unauthorized|invalid username/password' \
  podman push --creds admin:wrong "$image" "docker://$image"
refused "push while the CA is unknown" 'certificate signed by unknown authority' without_trust push_image "$image"
refused "what was refused is not there" 'manifest unknown|name unknown' pull_image "$image"

check "push" push_image "$image"
copies_by_mount "push to another repository" other/app:1 1 1 push_image "$REGISTRY/other/app:1"
podman rmi --all --force >/dev/null
refused "it is gone locally" 'no such image|not known' podman image inspect "$image"
check "pull" pull_image "$image"
same "the image id came back" "$id" "$(id_of "$image")"
podman save --quiet -o "$W/back.tar" "$image"
layer=$(jq -r '.rootfs.diff_ids[0]' "$W/image/blobs/sha256/$id")
same "its layer came back" "$layer" "sha256:$(tar -xOf "$W/back.tar" "${layer#sha256:}.tar" | sha256)"
refused "pull without credentials" 'unauthorized|authentication required' podman pull "$REGISTRY/other/app:1"

podman manifest create multi >/dev/null
podman manifest add multi oci:image:latest >/dev/null
podman manifest add multi oci:other:latest >/dev/null
check "push an index" podman manifest push --all --authfile "$W/auth.json" multi "docker://$REGISTRY/team/multi:1"
same "it is an index of two" "amd64 arm64" "$(http "$URL/v2/team/multi/manifests/1" |
  jq -r '[.manifests[].platform.architecture] | sort | join(" ")')"
check "pull one of it" pull_image --arch arm64 "$REGISTRY/team/multi:1"
same "the right one came" arm64 "$(podman image inspect --format '{{.Architecture}}' "$REGISTRY/team/multi:1")"

short_pages
push_many_tags "$W/other"
lists_many_tags list_tags
same "repositories are found" "$(printf '%s\n' "$REGISTRY"/{other/app,team/{app,many,multi}} | paste -sd ' ')" \
  "$(podman search --format '{{.Name}}' --authfile "$W/auth.json" "$REGISTRY/" | sort | paste -sd ' ')"

check "delete, through the API" forget_image team/app:1
refused "what was deleted is unknown" 'manifest unknown' pull_image "$image"
check "logout" podman logout --authfile "$W/auth.json" "$REGISTRY"
refused "pull after logout" 'unauthorized|authentication required' pull_image "$REGISTRY/other/app:1"
