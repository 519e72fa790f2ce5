# buildah: log in, build an image from files, push, pull, an index, a mount; and who is refused. Nothing is run.
#
# buildah neither lists nor deletes in a registry: the server's answer and the API stand in for that.

start_server "$W/home"
mkdir "$W/files"
head -c 3000000 /dev/urandom >"$W/files/data"
echo hello >"$W/files/greeting"

buildah() { command buildah --root "$W/storage" --runroot "$W/run" --storage-driver vfs "$@"; }
login() { buildah login --authfile "$W/auth.json" --username admin --password-stdin "$REGISTRY" <<<"$1"; }
push_image() { buildah push --quiet --authfile "$W/auth.json" "$1" "docker://$REGISTRY/$2"; }
pull_image() { buildah pull --quiet --policy always --authfile "$W/auth.json" "$@"; }
# build NAME ARCHITECTURE : an image with the files.
build() {
  local container
  container=$(buildah from --arch "$2" scratch)
  buildah copy --quiet "$container" "$W/files" / >/dev/null
  buildah commit --quiet --rm "$container" "$1" >/dev/null
}
echo "      $(buildah --version)"
check "build" build built amd64
build built-arm arm64

echo '{}' >"$W/auth.json" # before a login buildah must not miss it
refused "login with a wrong password" 'invalid username/password' login wrong
refused "login while the CA is unknown" 'certificate signed by unknown authority' without_trust login "$PASSWORD"
refused "push without login" 'unauthorized|authentication required' push_image built team/app:1
check "login" login "$PASSWORD"
refused "push with a wrong password" 'unauthorized|invalid username/password' \
  buildah push --creds admin:wrong built "docker://$REGISTRY/team/app:1"
refused "push while the CA is unknown" 'certificate signed by unknown authority' \
  without_trust push_image built team/app:1
refused "what was refused is not there" 'manifest unknown|name unknown' pull_image "$REGISTRY/team/app:1"

check "push" push_image built team/app:1
copies_by_mount "push to another repository" other/app:1 1 1 push_image built other/app:1
same "the tag is listed" 1 "$(http "$URL/v2/team/app/tags/list" | jq -r '.tags | join(" ")')"

id=$(buildah inspect --type image --format '{{.FromImageID}}' built)
buildah rmi --all --force >/dev/null
refused "it is gone locally" 'not known|no such|not found' buildah inspect --type image built
check "pull" pull_image "$REGISTRY/team/app:1"
same "the image id came back" "$id" "$(buildah inspect --type image --format '{{.FromImageID}}' "$REGISTRY/team/app:1")"
container=$(buildah from --pull-never "$REGISTRY/team/app:1")
check "the files came back" diff -r "$W/files" "$(buildah mount "$container")"
buildah rm --all >/dev/null
refused "pull without credentials" 'unauthorized|authentication required' buildah pull "$REGISTRY/other/app:1"

build built-arm arm64
buildah manifest create multi >/dev/null
buildah manifest add multi "$REGISTRY/team/app:1" >/dev/null
buildah manifest add --arch arm64 multi built-arm >/dev/null
check "push an index" buildah manifest push --all --quiet --authfile "$W/auth.json" \
  multi "docker://$REGISTRY/team/multi:1"
same "it is an index of two" "amd64 arm64" "$(http "$URL/v2/team/multi/manifests/1" |
  jq -r '[.manifests[].platform.architecture] | sort | join(" ")')"
check "pull one of it" pull_image --arch arm64 "$REGISTRY/team/multi:1"
same "the right one came" arm64 \
  "$(buildah inspect --type image --format '{{.OCIv1.Architecture}}' "$REGISTRY/team/multi:1")"

check "delete, through the API" forget_image team/app:1
refused "what was deleted is unknown" 'manifest unknown' pull_image "$REGISTRY/team/app:1"
check "logout" buildah logout --authfile "$W/auth.json" "$REGISTRY"
refused "pull after logout" 'unauthorized|authentication required' pull_image "$REGISTRY/other/app:1"
