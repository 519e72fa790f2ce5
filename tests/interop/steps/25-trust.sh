# Trust without copying anything by hand, and what `doctor` says before, between and after.

# What is trusted in this step is forgotten with it: the next ones begin with nothing.
forget_trust() {
  rm -rf /etc/docker/certs.d /etc/containers/certs.d /etc/boathouse/trusted
  rm -f /usr/local/share/ca-certificates/boathouse-*.crt
  update-ca-certificates --fresh >/dev/null 2>&1 || true
}
trap 'forget_trust; end_step' EXIT

trust() { "$BOATHOUSE" trust --remote "$REGISTRY" "$@"; }
doctor() { "$BOATHOUSE" doctor "${@:2}" --username admin --password-stdin <<<"$1"; }

start_server "$W/home"
rm -r "$CERTS" # what other steps rely on is what this one is about
make_image "$W/image"
has_welcomed() { grep -q 'Boathouse serves' "$T/server.log"; }
wait_until 10 has_welcomed || fail "there is no welcome" "$T/server.log"
printed=$(sed -nE 's/^ +(([0-9A-F]{2}:){31}[0-9A-F]{2})$/\1/p' "$T/server.log")
other=$(tr 0-9 1-90 <<<"$printed")

for call in \
  "name|/etc/hosts|no-such-name.test:$PORT|$PASSWORD" \
  "port|does the registry run|$HOST:9|$PASSWORD" \
  "tls|boathouse trust --remote $REGISTRY --install|$REGISTRY|$PASSWORD"; do
  IFS='|' read -r step hint registry password <<<"$call"
  doctor "$password" "$registry" >"$W/report" 2>&1 || true
  check "doctor: what is wrong with $registry is its $step" grep -E "^FAILED +$step " "$W/report"
  check "… with a hint" grep -F "hint: " "$W/report"
  check "… that says what to do" grep -F "$hint" "$W/report"
done
refused "push while the CA is unknown" 'certificate signed by unknown authority' \
  copy --dest-creds "admin:$PASSWORD" "oci:$W/image:latest" "docker://$REGISTRY/team/app:1"

refused "trust without a fingerprint and without a person" 'hint: pass the one that .* printed' trust --install --yes
refused "trust with another fingerprint" 'is not the one that is expected' trust --install --yes --fingerprint "$other"
refused "trust without consent" 'hint: pass --yes' trust --install --fingerprint "$printed"
refused "nothing has changed" 'certificate signed by unknown authority' \
  copy --dest-creds "admin:$PASSWORD" "oci:$W/image:latest" "docker://$REGISTRY/team/app:1"

check "trust with the fingerprint that up printed" trust --install --yes --fingerprint "$printed"
sed 's/^/      | /' "$T/output"
same "three stores were told" 3 "$(grep -c 'trusts it now' "$T/output")"
check "trust again" trust --install --fingerprint "$printed"
same "… finds nothing to do" 3 "$(grep -c 'trusts it already' "$T/output")"
check "the system's store: curl without any option" curl -sS "$URL/healthz"

check "skopeo logs in" log_in
check "skopeo pushes" push "$W/image" team/app:1
start_docker
image=$REGISTRY/team/rootfs:1
mkdir "$W/root"
head -c 1000000 /dev/urandom >"$W/root/data"
tar -C "$W/root" -c . | docker import - "$image" >/dev/null
check "docker logs in" docker login --username admin --password-stdin "$REGISTRY" <<<"$PASSWORD"
check "docker pushes" docker push "$image"

doctor wrong "$REGISTRY" >"$W/report" 2>&1 || true
check "doctor: a wrong password fails at the login" grep -E '^FAILED +login ' "$W/report"
check "… with a hint" grep -E 'hint: .*boathouse user passwd admin' "$W/report"
check "doctor is content" doctor "$PASSWORD" "$REGISTRY" --size 64
sed 's/^/      | /' "$T/output"
same "every step is ok" 7 "$(grep -c '^ok ' "$T/output")"
check "… with what docker keeps, too" "$BOATHOUSE" doctor "$REGISTRY"
check "JSON has the rates" bash -c '"$1" doctor "$2" --json | jq -e ".is_healthy and (.steps[5:] | all(.bytes_per_sec > 0))"' \
  - "$BOATHOUSE" "$REGISTRY"
check "nothing of the doctor's stays" bash -c '! find "$1/data/docker" -path "*doctor-scratch/_layers/*" -type f | grep .' - "$DIR"

check "an image is made and pushed without any other program" "$BOATHOUSE" push-sample --dir "$DIR"
check "… which skopeo pulls" pull hello:1 "$W/hello"
image=$REGISTRY/hello:1
check "… and docker" docker pull "$image"
check "docker knows the registry by its other names" test -e "/etc/docker/certs.d/$(hostname -s).local:$PORT/ca.crt"
check "the trust is taken back" trust --remove --yes
sed 's/^/      | /' "$T/output"
# The step `slow`, which runs meanwhile, has another port.
check "… in every file" bash -c '! find /etc/docker/certs.d /etc/containers/certs.d /usr/local/share/ca-certificates -path "*[:-]$1*.crt" | grep .' - "$PORT"
check "… and no link to it stays" bash -c '! find /etc/ssl/certs -xtype l | grep .'
refused "… so that curl does not know it" 'certificate' curl -sS "$URL/healthz"

# Verifiers of other kinds, each with a store of its own: the names of the first authority, a bare one among them, and one that
# only an additional authority may sign for. A certificate for a name outside the constraints is refused, with the same key.
stop_server
boathouse_up "$W/home" --host added.example >>"$T/server.log" 2>&1 &
SERVER=$!
wait_until 30 answers_or_ended || true
csplit -s -z -f "$W/ca-" -b '%d.pem' "$CA" '/BEGIN/' '{*}'
same "there are two authorities" 2 "$(find "$W" -name 'ca-*.pem' | wc -l)"
certutil -N -d "sql:$W" --empty-password
for number in 0 1; do
  certutil -A -d "sql:$W" -n "ca-$number" -t C,, -i "$W/ca-$number.pem"
done
leaf_of() {
  openssl s_client -connect "[::1]:$PORT" -servername "$1" </dev/null 2>/dev/null | openssl x509 -outform der -out "$W/leaf.der"
}
for name in "$(hostname -s)" "$(hostname -s).local" localhost "$HOST" added.example; do
  check "GnuTLS trusts $name" gnutls-cli --x509cafile "$CA" --sni-hostname "$name" --verify-hostname "$name" -p "$PORT" ::1 </dev/null
  leaf_of "$name"
  check "NSS trusts the certificate of $name" vfychain -d "sql:$W" -u 1 -pp "$W/leaf.der"
done
for name in other.example "below.$(hostname -s)"; do
  printf 'subjectAltName=DNS:%s\nextendedKeyUsage=serverAuth\n' "$name" >"$W/extensions"
  openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$W/other.key" -subj /CN=x -out "$W/other.csr" 2>/dev/null
  openssl x509 -req -in "$W/other.csr" -CA "$W/ca-0.pem" -CAkey "$W/home/keys/ca.key" -extfile "$W/extensions" -days 9 \
    -out "$W/other.pem" 2>/dev/null
  openssl x509 -in "$W/other.pem" -outform der -out "$W/other.der"
  refused "GnuTLS refuses $name" "violates the signer's constraints" certtool --verify --load-ca-certificate "$W/ca-0.pem" --infile "$W/other.pem"
  refused "NSS refuses $name" 'Chain is bad' vfychain -d "sql:$W" -u 1 -pp "$W/other.der"
done
