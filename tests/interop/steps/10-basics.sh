# What curl sees before anybody logs in: health, the CA, TLS, and a hint where plain HTTP arrives.

start_server "$W/home"

same "/healthz needs no credentials" 200 "$(anonymous "$URL/healthz")"
same "/readyz needs no credentials" 200 "$(anonymous "$URL/readyz")"
curl -sS --insecure "$URL/ca.crt" -o "$W/ca.crt"
check "/ca.crt is the file" cmp "$W/ca.crt" "$CA"

check "TLS is verified with the CA" curl -sS --cacert "$CA" "$URL/healthz"
check "TLS is verified with the CA by openssl, by name" bash -c \
  'openssl s_client -connect "$1" -servername "$2" -verify_hostname "$2" -verify_return_error -CAfile "$3" </dev/null |
   grep "Verify return code: 0 (ok)"' - "[::1]:$PORT" "$HOST" "$CA"
refused "without the CA, TLS is not trusted" \
  'unable to get local issuer certificate|self.signed certificate in certificate chain' curl -sS "$URL/healthz"
http_version() { curl -s --http2 --cacert "$CA" -o /dev/null -w '%{http_version}' "$URL/healthz"; }
same "HTTP/1.1 is spoken, which large layers are quicker by" 1.1 "$(http_version)"

same "plain HTTP on the TLS port is 400" 400 "$(anonymous "http://$REGISTRY/v2/")"
curl -s "http://$REGISTRY/v2/" -o "$W/plain" || true
check "… as an OCI error" jq -e '.errors[0].code | test("^[A-Z_]+$")' "$W/plain"
check "… that says where the CA is" grep -F /ca.crt "$W/plain"

stop_server
sed -i 's/^  #http2: {disabled: true}/  http2: {disabled: false}/' "$DIR/boathouse.yml"
start_server "$W/home"
same "HTTP/2 is spoken where it is switched on" 2 "$(http_version)"
