# docs/takeover.md, run as it stands: each `sh` block of it, in its order, and what follows as `text` is what it prints.
# The services run as the user that Debian's docker-registry runs as.

PAGE=$lib/../../../docs/takeover.md
OWNER=docker-registry

guide_files
start_nginx
make_image "$W/image" 100000
make_image "$W/later" 100000
chown -R "$OWNER" "$STORE_DATA" /etc/default/registry-certs
chmod 600 /etc/default/registry-certs/privkey.pem
mkdir /run/bin
install -m 755 "$BOATHOUSE" /run/bin/boathouse
ln -s "$lib/sudo" "$lib/systemctl" /run/bin
export PATH=/run/bin:$PATH UNIT_PORTS_docker_registry=5000 UNIT_PORTS_docker_auth=5001 UNIT_PORTS_boathouse="5000 5001"
# docker_auth has no package, so its service is somebody's own. Without it Boathouse stands in, by the same file.
issuer="/run/bin/boathouse serve --config $AUTH_YML"
if [[ -n $DOCKER_AUTH_BIN ]]; then
  install -m 755 "$DOCKER_AUTH_BIN" /run/bin/auth_server
  issuer="/run/bin/auth_server --alsologtostderr $AUTH_YML"
else
  not_run docker_auth
fi
printf '[Service]\nUser=%s\nExecStart=%s\n' "$OWNER" "$issuer" >/etc/systemd/system/docker_auth.service

# store_push_as NAME PASSWORD IMAGE REPOSITORY:TAG
store_push_as() {
  skopeo --insecure-policy copy --quiet --all --preserve-digests --dest-creds "$1:$2" "oci:$3:latest" "docker://$STORE/$4"
}

systemctl start docker_auth docker-registry
store_login >"$W/login"
check "the old programs take an image" store_push "$W/image" team/app:1
check "… and a public one" store_push "$W/image" public/app:1
stock "$W/stock"
section "Look first"
section "Take over"
stock "$W/stock-now"
check "every image is there" diff "$W/stock" "$W/stock-now"
check "Boathouse takes an image" store_push "$W/later" team/later:1
stock "$W/stock"
section "Go back"
stock "$W/stock-now"
check "every image is there, also what Boathouse took" diff "$W/stock" "$W/stock-now"
check "the old programs take an image" store_push "$W/later" team/later:2
stock "$W/stock"
systemctl stop docker_auth docker-registry

section "Leave the old files behind"
stock "$W/stock-now"
check "every image is there by the new files" diff "$W/stock" "$W/stock-now"
check "… and an account of Boathouse's own takes one" store_push_as ci "$(</etc/boathouse/ci-password)" "$W/later" team/by-ci:1
stock "$W/stock"
section "Go back from there"
stock "$W/stock-now"
check "every image is there with the old programs again" diff "$W/stock" "$W/stock-now"
check "… and the account takes another one" store_push_as ci "$(</etc/boathouse/ci-password)" "$W/later" team/by-ci:2
systemctl stop docker_auth docker-registry
check "every section of the page was run" whole_page_was_run
rm -r /run/bin /etc/boathouse
