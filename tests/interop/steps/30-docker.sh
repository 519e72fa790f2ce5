# The docker engine of Debian's docker.io, with its own client: log in, push, pull, an index, a mount; and who is refused.
#
# docker neither lists nor deletes in a registry: the server's answer and the API stand in for that.

login() { docker login --username admin --password-stdin "$REGISTRY" <<<"$1"; }

start_docker
start_server "$W/home"

image=$REGISTRY/team/rootfs:1
mkdir "$W/root"
head -c 5000000 /dev/urandom >"$W/root/data"
echo hello >"$W/root/greeting"
id=$(tar -C "$W/root" -c . | docker import - "$image")

# Docker 20.10 words one and the same refusal in several ways.
unauthorized='unauthorized|no basic auth credentials|authentication required|denied'
refused "login with a wrong password" "$unauthorized" login wrong
refused "login while the CA is unknown" 'certificate signed by unknown authority' without_trust login "$PASSWORD"
refused "push without login" "$unauthorized" docker push "$image"
check "login" login "$PASSWORD"
refused "push while the CA is unknown" 'certificate signed by unknown authority' without_trust docker push "$image"
refused "what was refused is not there" 'manifest unknown|name unknown|not found' docker pull "$REGISTRY/team/rootfs:1"

check "push" docker push "$image"
pushed=$(docker image inspect --format '{{index .RepoDigests 0}}' "$image")
check "remove the local image" docker rmi "$image"
refused "it is gone locally" 'no such image' docker image inspect "$image"
check "pull" docker pull "$image"
same "the image id came back" "$id" "$(docker image inspect --format '{{.Id}}' "$image")"
same "the digest came back" "$pushed" "$(docker image inspect --format '{{index .RepoDigests 0}}' "$image")"

mkdir "$W/root-back"
container=$(docker create "$image" /nothing)
docker export "$container" | tar -C "$W/root-back" -x data greeting
check "the files came back" diff -r "$W/root" "$W/root-back"
docker rm "$container" >/dev/null

same "the tag is listed" 1 "$(http "$URL/v2/team/rootfs/tags/list" | jq -r '.tags | join(" ")')"

copied=$REGISTRY/other/rootfs:1
docker tag "$image" "$copied"
copies_by_mount "push to another repository" other/rootfs:1 1 1 docker push "$copied"
docker rmi "$copied" >/dev/null
check "pull it from there" docker pull "$copied"
same "it is the same image" "$id" "$(docker image inspect --format '{{.Id}}' "$copied")"

# docker imports no other architecture than its own, so the second image comes by skopeo, in the format docker joins.
name_latest "$W/arm" "$(add_image "$W/arm" arm64 100000)"
log_in >/dev/null
copy --format v2s2 "oci:$W/arm:latest" "docker://$REGISTRY/team/rootfs:arm"
multi=$REGISTRY/team/rootfs:multi
check "put an index together" docker manifest create "$multi" "$image" "$REGISTRY/team/rootfs:arm"
check "push it" docker manifest push "$multi"
check "pull one of it" docker pull --platform linux/arm64 "$multi"
same "the right one came" arm64 "$(docker image inspect --format '{{.Architecture}}' "$multi")"

check "delete, through the API" forget_image other/rootfs:1
docker rmi "$copied" >/dev/null
refused "what was deleted is unknown" 'manifest unknown|not found' docker pull "$copied"

check "logout" docker logout "$REGISTRY"
docker rmi "$image" >/dev/null
refused "pull after logout" "$unauthorized" docker pull "$image"
