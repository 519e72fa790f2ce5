# Tokens of ours open the real registries with the certificate that they are given, whatever the kind of key. And the real
# registries judge other issuers' tokens as the table in tests/it/verifier_matrix says, beside which ours is held.

guide_files
start_nginx
make_image "$W/image" 100000
DOCKER_AUTH_BIN='' # the issuer is ours
certs=/etc/default/registry-certs

# pair KIND : another key and its certificate take the place of the guide's.
pair() {
  local key=(-newkey rsa:2048 -keyout "$certs/privkey.pem")
  rm "$certs"/*.pem
  case $1 in
    made)
      "$BOATHOUSE" token-key make --config "$AUTH_YML"
      return
      ;;
    RSA) ;;
    SEC1)
      openssl ecparam -name prime256v1 -genkey -noout -out "$certs/privkey.pem"
      key=(-key "$certs/privkey.pem")
      ;;
    *) key=(-newkey ec -pkeyopt "ec_paramgen_curve:$1" -keyout "$certs/privkey.pem") ;;
  esac
  openssl req -x509 "${key[@]}" -nodes -subj "/CN=issuer" -days 365 -out "$certs/cert.pem"
}

for kind in made RSA P-256 P-384 P-521 SEC1; do
  check "$kind: make a key and a certificate" pair "$kind"
  start_issuer
  for registry in 2.8.2=docker-registry 3.1.2=registry; do
    start_registry "${registry#*=}"
    check "$kind: our token opens ${registry%%=*}: login" store_login
    check "… push" store_push "$W/image" team/app:1
    refused "… and no push by an account without a right" 'unauthorized|denied' \
      copy --dest-creds test:test-password "oci:$W/image:latest" "docker://$STORE/team/app:2"
    stop_server
  done
  stop_issuer
done

start_issuer
openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=another -days 365 -keyout "$W/another.key" -out "$certs/cert.pem" \
  2>"$W/openssl"
for registry in 2.8.2=docker-registry 3.1.2=registry; do
  start_registry "${registry#*=}"
  refused "with another certificate ${registry%%=*} stays closed" 'unauthorized|denied|invalid' \
    store_push "$W/image" team/app:3
  stop_server
done
stop_issuer

check "2.8.2 and 3.1.2 judge every kind of token as its row says" \
  env BOATHOUSE_DOCKER_REGISTRY="$(command -v docker-registry)" BOATHOUSE_DISTRIBUTION="$(command -v registry)" \
  "$TESTS" verifier_matrix:: --include-ignored --nocapture
