# docs/moving-and-mending.md, run as it stands, with the unit of the package. A section that moves or mends something is followed
# by a look at every image.

PAGE=$lib/../../../docs/moving-and-mending.md
PORT=443 REGISTRY=localhost URL=https://localhost CERTS=/etc/docker/certs.d/localhost
CA=/etc/boathouse/ca.crt

# packaged : a machine with the package, whose service has never run.
packaged() {
  echo 'boathouse:x:997:997::/var/lib/boathouse:/usr/sbin/nologin' >>/etc/passwd
  echo 'boathouse:x:997:' >>/etc/group
  mkdir -p /var/lib/boathouse /mnt /run/bin /etc/systemd/system
  mount -t tmpfs -o mode=700,uid=997,gid=997 tmpfs /var/lib/boathouse
  mountpoint -q /mnt || mount -t tmpfs tmpfs /mnt
  install -d -o boathouse -g boathouse -m 755 /etc/boathouse
  install -m 755 "$BOATHOUSE" /run/bin/boathouse
  ln -s "$lib/sudo" "$lib/systemctl" /run/bin
  cp "$lib/../../../systemd/boathouse.service" /etc/systemd/system/
  # What the unit has a capability for.
  echo 443 >/proc/sys/net/ipv4/ip_unprivileged_port_start
  export PATH=/run/bin:$PATH UNIT_PORTS_boathouse=443
}

# images : each image that a client finds, with the hash of every part of it.
images() { "$lib/as_client" stock "$REGISTRY" "$CA" "admin:$PASSWORD"; }

# the_same_images NAME : what was served before is served now.
the_same_images() {
  check "$1" images
  cp "$T/output" "$W/images-now"
  check "… the same ones" diff "$W/images" "$W/images-now"
}

packaged
make_image "$W/image" 100000
systemctl start boathouse
PASSWORD=$(</etc/boathouse/admin-password)
mkdir -p "$CERTS"
cp "$CA" "$CERTS/ca.crt"
log_in >"$W/login"
check "an image is pushed" push "$W/image" team/app:1
check "… and another one" push "$W/image" lab/tool:2
images >"$W/images"
mkdir /mnt/new
chown boathouse /mnt/new
section "Another disk"
the_same_images "every image is on the new disk"
echo '::1 registry.example' >>/etc/hosts
cp "$CA" "$W/old.crt"
section "Another name"
the_same_images "every image is there under the old name"
# as_before URL : a client that knows the old authority only; without --capath curl looks into the system's store too.
as_before() { curl -sS --fail --cacert "$W/old.crt" --capath "$W/nothing" "$1/healthz"; }
check "… for clients that know the old authority only" as_before "$URL"
refused "… which the new name has not" 'certificate' as_before https://registry.example
check "the new name is trusted by every program here" curl -sS --fail https://registry.example/healthz
cp /etc/boathouse/keys/tls.crt "$W/tls.crt"
section "Another server certificate"
differs() { ! cmp -s "$1" "$2"; }
check "the certificate is another one" differs "$W/tls.crt" /etc/boathouse/keys/tls.crt
the_same_images "clients need no change"
section "Another certificate authority"
the_same_images "every image is there with the new authority"
check "… which every program here trusts" curl -sS --fail https://registry.example/healthz
refused "the old one is not trusted any more" 'certificate' as_before "$URL"
token_of() { curl -sS --fail --cacert "$CA" -u "admin:$1" "$URL/token?service=boathouse&scope=repository:team/app:pull" | jq -er .token; }
status_of() { curl -sS -o "$W/body" -w '%{http_code}' --cacert "$CA" -H "Authorization: Bearer $1" "$URL/v2/"; }
token=$(token_of "$PASSWORD")
section "A forgotten password"
same "the old password's token is dead" 401 "$(status_of "$token")"
PASSWORD=$(</root/admin-password)
the_same_images "every image is there with the new password"
section "A lost users.yml"
same "the new file belongs to the service's user" "997 600" "$(stat -c '%u %a' /etc/boathouse/users.yml)"
PASSWORD=$(</root/admin-password)
check "a client logs in with it" log_in
the_same_images "every image is there with the new account"
token=$(token_of "$PASSWORD")
# At first only as far as both keys count.
awk '/^Registries that accept/ { exit } { print }' "$PAGE" >"$W/page-until-overlap-ends"
PAGE=$W/page-until-overlap-ends section "Another key for tokens"
same "a token of the old key is accepted" 200 "$(status_of "$token")"
the_same_images "every image is there with the new key"
section "Another key for tokens"
same "the keys belong to the service's user" "997 600" "$(stat -c '%u %a' /etc/boathouse/keys/token.key)"
same "a token of the lost key is dead" 401 "$(status_of "$token")"
the_same_images "every image is there with the key that was made last"
mkdir /mnt/backup
mount -t tmpfs tmpfs /mnt/backup # a disk of its own
section "Another machine: on the old one"
# The new machine has the package, and nothing else of the old one.
rm -r /etc/systemd/system/boathouse.service.d /mnt/new
find /etc/boathouse /var/lib/boathouse -mindepth 1 -delete
section "Another machine: on the new one"
the_same_images "every image is on the new machine, by the same authority and password"
log_in "$PASSWORD" >"$W/login"
check "an image is pushed there" push "$W/image" team/app:2
check "every section of the page was run" whole_page_was_run
systemctl stop boathouse
rm -r /run/bin
