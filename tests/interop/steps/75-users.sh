# A first day: two users and a robot, made by commands beside the running server; a new password, a revocation and a
# removal, each of which ends what was given out before; a user who keeps a token instead of a password.

# user ARGUMENT… : the command, on the server's installation; stdout is the password where one is made.
user() { "$BOATHOUSE" user "$@" --dir "$DIR" 2>"$W/talk"; }
# For `check` and `refused`, which look at what a command says.
user_says() { "$BOATHOUSE" user "$@" --dir "$DIR" 2>&1; }
as_user() { skopeo login --authfile "$W/$1.json" --username "$1" --password-stdin "$REGISTRY" <<<"$2"; }
push_as() { skopeo --insecure-policy copy --quiet --authfile "$W/$1.json" "oci:$W/image:latest" "docker://$REGISTRY/$2"; }
pull_as() { skopeo --insecure-policy copy --quiet --authfile "$W/$1.json" "docker://$REGISTRY/$2" "oci:$W/$3:latest"; }
token_of() { curl -sS --fail --cacert "$CA" -u "$1:$2" "$URL/token?service=boathouse&scope=repository:$3" | jq -er .token; }
status_of() { anonymous -H "Authorization: Bearer $1" "$URL/v2/"; }
said() { grep -Eq -- "$1" "$W/talk"; }
explained() { "$BOATHOUSE" acl explain "$@" --json --dir "$DIR" | jq -er '.actions[0].allowed'; }
denied='unauthorized|authentication required|denied|invalid username/password'

start_server "$W/home"
make_image "$W/image"
# A server under a user of its own must be able to read what root writes.
chown nobody "$DIR/users.yml"

ann=$(user add ann --push 'team/**' --pull 'base/**')
check "a new user is said to be in force at once" said 'in force from the next request on'
check "a generated password is one word without a colon" grep -Eqx '[A-Za-z0-9]{24}' <<<"$ann"
refused "… and is not said twice" 'no match' bash -c 'grep -F -- "$1" "$2" || { echo no match; false; }' - "$ann" "$W/talk"
bob=bobs-own-password
check "a user with a password of their own" \
  bash -c '"$1" user add bob --pull "team/**" --password-stdin --dir "$2" <<<"$3"' - "$BOATHOUSE" "$DIR" "$bob"
robot=$(user add robot --push 'team/app' --expires 90d)
same "the file keeps its owner" "nobody 600" "$(stat -c '%U %a' "$DIR/users.yml")"
refused "a name is taken once" 'exists already' user_says add ann
same "three users and the admin are listed" "admin ann bob robot" \
  "$(user list --json | jq -r '[.accounts[].name] | join(" ")')"
check "the robot ends in about 90 days" bash -c '
  days=$((($(date -d "$("$1" user list --json --dir "$2" | jq -er ".accounts[3].expires")" +%s) - $(date +%s)) / 86400))
  ((days == 89 || days == 90))' - "$BOATHOUSE" "$DIR"

check "ann logs in" as_user ann "$ann"
check "bob logs in" as_user bob "$bob"
check "the robot logs in" as_user robot "$robot"
check "ann pushes deep below her grant" push_as ann team/tools/ci:1
check "the robot pushes what it may" push_as robot team/app:1
refused "the robot pushes nothing else" "$denied" push_as robot team/other:1
check "bob pulls" pull_as bob team/app:1 bobs-copy
same_content "what bob pulled" "$W/image" "$W/bobs-copy"
refused "bob pushes nothing" "$denied" push_as bob team/app:2
refused "nobody pulls" "$denied" pull_as nobody team/app:1 stolen
same "what is explained is what happened: bob pulls" true "$(explained bob team/app pull)"
same "… and does not push" false "$(explained bob team/app push || true)"
same "… and the robot pushes to its own only" "true false" \
  "$(explained robot team/app push) $(explained robot team/other push || true)"

token=$(token_of ann "$ann" team/app:pull)
same "ann's token opens the door" 200 "$(status_of "$token")"
new=$(user passwd ann)
same "after passwd her token is dead" 401 "$(status_of "$token")"
refused "… and her old password" "$denied" as_user ann "$ann"
refused "… also where it was stored" "$denied" push_as ann team/app:3
check "… and the new one is good" as_user ann "$new"
check "… for a push too" push_as ann team/app:3

token=$(token_of robot "$robot" team/app:pull,push)
same "the robot's token opens the door" 200 "$(status_of "$token")"
user revoke robot
same "after revoke it is dead" 401 "$(status_of "$token")"
token=$(token_of robot "$robot" team/app:pull,push)
same "… and the password gets another" 200 "$(status_of "$token")"
user revoke robot
same "a second revocation within the second ends that too" 401 "$(status_of "$token")"

token=$(token_of bob "$bob" team/app:pull)
user remove bob
same "after remove bob's token is dead" 401 "$(status_of "$token")"
refused "… and his password" "$denied" as_user bob "$bob"
refused "… and what he had stored" "$denied" pull_as bob team/app:1 stolen
same "no rule of his is left" 0 "$(grep -c bob "$DIR/users.yml" || true)"
check "the others go on" push_as ann team/app:4

stop_server
user revoke ann
check "without a server the command does the same" said 'in force from the next request on'

# docker's way to keep a token instead of the password, where it is switched on.
sed -i 's/^  #refresh_tokens: false/  refresh_tokens: true/' "$DIR/boathouse.yml"
check "refresh tokens are switched on" grep -q '^  refresh_tokens: true' "$DIR/boathouse.yml"
# Whoever owns the file could give themselves any account.
refused "root does not serve by a users file of another user" 'belongs to the user' \
  timeout 30 "$BOATHOUSE" up --dir "$DIR"
chown root "$DIR/users.yml"
start_server "$W/home"
kept=$(curl -sS --fail --cacert "$CA" -u "ann:$new" \
  "$URL/token?service=boathouse&offline_token=true&client_id=docker" | jq -er .refresh_token)
with_kept() {
  curl -sS --fail --cacert "$CA" -d grant_type=refresh_token -d service=boathouse -d client_id=docker \
    --data-urlencode 'scope=repository:team/app:pull' --data-urlencode "refresh_token=$kept" "$URL/token"
}
check "a refresh token gets a token" with_kept
same "… that opens the door" 200 "$(status_of "$(with_kept | jq -er .token)")"
same "… and is none itself" 401 "$(status_of "$kept")"

# The docker engine does so by itself: its login stores the token in place of the password.
docker() { /usr/bin/docker --host "unix://$T/docker.sock" --config "$W/docker" "$@"; }
dockerd --bridge=none --iptables=false --ip6tables=false --storage-driver=vfs \
  --data-root "$W/engine" --exec-root "$W/exec" --pidfile "$W/docker.pid" --host "unix://$T/docker.sock" \
  >"$W/dockerd.log" 2>&1 &
wait_until 60 docker version || { fail "the engine does not start" "$W/dockerd.log"; exit 1; }
check "docker logs in" docker login --username ann --password-stdin "$REGISTRY" <<<"$new"
check "… and stores a token" jq -e ".auths[\"$REGISTRY\"].identitytoken | length > 100" "$W/docker/config.json"
check "… and not the password" \
  jq -e ".auths[\"$REGISTRY\"] | (.auth // \"\" | @base64d | ltrimstr(\"ann:\") | length) == 0" "$W/docker/config.json"
image=$REGISTRY/team/rootfs:1
tar -C "$W/image" -c . | docker import - "$image" >/dev/null
check "docker pushes with it" docker push "$image"
docker rmi "$image" >/dev/null
check "… and pulls" docker pull "$image"

user passwd ann >/dev/null
refused "another password ends a refresh token" 'error: 401' with_kept
refused "… also docker's" "$denied" docker push "$image"
