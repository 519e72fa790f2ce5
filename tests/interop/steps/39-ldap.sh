# Accounts of a directory (Debian's slapd): over STARTTLS and over TLS, with groups that become labels, a user who loses a group,
# one who is removed, and a directory that is down.

DIRECTORY_PASSWORD=a-password-of-the-directory
LOCAL=another-password-for-tests
LOCAL_HASH='$2b$10$CflXOvd7UUcHEkOLIi/s9OhzPnTg7g1idW7aXlmHgZNF1Ku7gjbSW'
MANAGER=(-H ldap://localhost:3389 -x -D cn=manager,dc=lab -w "$DIRECTORY_PASSWORD")

# authority NAME : $W/NAME.crt and NAME.key, and with them a certificate of its own for localhost.
authority() {
  openssl req -x509 -newkey rsa:2048 -nodes -subj "/CN=$1" -days 30 -keyout "$W/$1.key" -out "$W/$1.crt" \
    -addext basicConstraints=critical,CA:TRUE
}
for name in authority stranger; do authority "$name" 2>>"$W/openssl"; done
openssl req -newkey rsa:2048 -nodes -subj /CN=directory -keyout "$W/slapd.key" -out "$W/slapd.csr" 2>>"$W/openssl"
openssl x509 -req -in "$W/slapd.csr" -CA "$W/authority.crt" -CAkey "$W/authority.key" -CAcreateserial -days 30 \
  -extfile <(echo subjectAltName=DNS:localhost) -out "$W/slapd.crt" 2>>"$W/openssl"

mkdir "$W/entries"
cat >"$W/slapd.conf" <<CONF
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
moduleload memberof
pidfile $W/slapd.pid
TLSCACertificateFile $W/authority.crt
TLSCertificateFile $W/slapd.crt
TLSCertificateKeyFile $W/slapd.key
database mdb
suffix dc=lab
rootdn cn=manager,dc=lab
rootpw $DIRECTORY_PASSWORD
directory $W/entries
overlay memberof
access to attrs=userPassword by anonymous auth by * none
access to * by dn.exact="cn=service,dc=lab" read by * none
CONF
start_directory() {
  slapd -f "$W/slapd.conf" -h 'ldap://localhost:3389 ldaps://localhost:3636' -d 0 >>"$W/slapd.log" 2>&1 &
  DIRECTORY=$!
  wait_until 20 ldapwhoami "${MANAGER[@]}" || { fail "slapd does not answer" "$W/slapd.log"; exit 1; }
}
start_directory
person() {
  printf 'dn: uid=%s,ou=people,dc=lab\nobjectClass: inetOrgPerson\nuid: %s\ncn: %s\nsn: %s\nuserPassword: %s\n\n' \
    "$1" "$1" "$1" "$1" "$2"
}
ldapadd "${MANAGER[@]}" >"$W/ldapadd" <<LDIF
dn: dc=lab
objectClass: dcObject
objectClass: organization
dc: lab
o: lab

dn: ou=people,dc=lab
objectClass: organizationalUnit
ou: people

dn: cn=service,dc=lab
objectClass: organizationalRole
objectClass: simpleSecurityObject
cn: service
userPassword: password-of-the-service

$(person ann password-of-ann)

$(person bob password-of-bob)

dn: cn=Builders,dc=lab
objectClass: groupOfNames
cn: Builders
member: uid=ann,ou=people,dc=lab
LDIF
echo password-of-the-service >"$W/service-password"

# The first start makes certificates.
start_server "$W/home"
stop_server
cat >"$W/registry.yml" <<YML
version: 0.1
storage:
  filesystem: {rootdirectory: $DIR/data}
http:
  addr: "[::1]:$PORT"
  tls: {certificate: $DIR/keys/tls.crt, key: $DIR/keys/tls.key}
YML
# accounts TLS PORT AUTHORITY : the file of docker_auth, with the directory.
accounts() {
  cat >"$W/auth_config.yml" <<YML
token: {issuer: a-lab, expiration: 900, certificate: $DIR/keys/token.crt, key: $DIR/keys/token.key}
users:
  local: {password: "$LOCAL_HASH"}
ldap_auth:
  addr: localhost:$2
  tls: $1
  ca_certificate: $W/$3.crt
  base: ou=people,dc=lab
  filter: (&(uid=\${account})(objectClass=inetOrgPerson))
  bind_dn: cn=service,dc=lab
  bind_password_file: $W/service-password
  labels:
    groups: {attribute: memberOf, parse_cn: true, lower_case: true}
acl:
  - {match: {labels: {groups: builders}, name: "team/*"}, actions: [pull, push]}
  - {match: {account: "/.+/", name: "team/*"}, actions: [pull]}
YML
}
boathouse_up() { exec "$BOATHOUSE" serve --config "$W/registry.yml" --config "$W/auth_config.yml"; }
login_as() { skopeo login --authfile "$W/$1.json" --username "$1" --password-stdin "$REGISTRY" <<<"$2"; }
push_as() { skopeo --insecure-policy copy --quiet --authfile "$W/$1.json" "oci:$W/image:latest" "docker://$REGISTRY/$2"; }
# answer ACCOUNT PASSWORD : status of a request for a token, and what it may do with team/app.
answer() {
  curl -sS --cacert "$CA" -u "$1:$2" -o "$W/token" -w '%{http_code} ' \
    "$URL/token?service=boathouse&scope=repository:team/app:pull,push"
  jq -r '.token // "" | split(".")[1] // "" | gsub("-"; "+") | gsub("_"; "/") | @base64d | fromjson? |
    .access[0].actions | sort | join(",")' "$W/token"
}
pull_with() { anonymous -H "Authorization: Bearer $1" "$URL/v2/team/app/tags/list"; }
denied='unauthorized|denied|invalid username/password'

make_image "$W/image" 100000
for way in 'starttls 3389' 'always 3636'; do
  read -r tls port <<<"$way"
  accounts "$tls" "$port" authority
  start_server "$W/home"
  check "$tls: ann logs in" login_as ann password-of-ann
  check "$tls: ann, who is a builder, pushes" push_as ann "team/app:$tls"
  check "$tls: bob logs in" login_as bob password-of-bob
  refused "$tls: bob, who is not, does not push" "$denied" push_as bob "team/app:bob"
  refused "$tls: a wrong password" "$denied" login_as ann password-of-bob
  same "$tls: a name that would be a filter" 401 "$(answer 'a*' password-of-ann | xargs)"
  same "$tls: an empty password" 401 "$(answer ann '' | xargs)"
  same "$tls: a user of the file" '200 pull' "$(answer local "$LOCAL")"
  stop_server
done

accounts always 3636 stranger
start_server "$W/home"
same "a directory that another authority vouches for: an error" 500 "$(answer ann password-of-ann | xargs)"
check "… which the log names" grep -q 'ldap_auth: cannot connect to localhost:3636: .*certificate' "$T/server.log"
stop_server

accounts starttls 3389 authority
start_server "$W/home"
same "ann may push" '200 pull,push' "$(answer ann password-of-ann)"
before=$(jq -r .token "$W/token")
ldapmodify "${MANAGER[@]}" >"$W/ldapmodify" <<LDIF
dn: cn=Builders,dc=lab
changetype: modify
add: member
member: uid=bob,ou=people,dc=lab
-
delete: member
member: uid=ann,ou=people,dc=lab
LDIF
same "out of the group, her next token cannot" '200 pull' "$(answer ann password-of-ann)"
same "… and bob, who came into it, may" '200 pull,push' "$(answer bob password-of-bob)"
check "ann leaves" ldapdelete "${MANAGER[@]}" uid=ann,ou=people,dc=lab
same "… and gets no token" 401 "$(answer ann password-of-ann | xargs)"
same "… the one that she has opens until it expires, as with docker_auth" 200 "$(pull_with "$before")"

kill -TERM "$DIRECTORY"
wait_for_end 15 "$DIRECTORY" || fail "slapd does not end" "$W/slapd.log"
same "without the directory: an error" 500 "$(answer bob password-of-bob | xargs)"
same "… where the password comes with the request, too" 503 \
  "$(anonymous -u eve:password-of-eve "$URL/v2/team/app/tags/list")"
check "… which the log names" grep -q 'ldap_auth: cannot connect to localhost:3389' "$T/server.log"
same "… and which no user of the file notices" '200 pull' "$(answer local "$LOCAL")"
start_directory
same "and with it again" '200 pull,push' "$(answer bob password-of-bob)"
refused "no password is in the log" 'nothing' bash -c \
  'grep -F -e password-of- -e "$1" "$2" || { echo nothing; false; }' - "$DIRECTORY_PASSWORD" "$T/server.log"
