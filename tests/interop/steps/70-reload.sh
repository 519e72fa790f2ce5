# SIGHUP reads the users again: a changed password ends every token of that account at once.

OTHER=another-password-for-tests
OTHER_HASH='$2b$10$CflXOvd7UUcHEkOLIi/s9OhzPnTg7g1idW7aXlmHgZNF1Ku7gjbSW'

token_with() { curl -sS --fail --cacert "$CA" -u "admin:$1" "$URL/token?service=boathouse" | jq -er .token; }
status_of() { anonymous -H "Authorization: Bearer $1" "$URL/v2/"; }
is_dead() { [[ $(status_of "$1") == 401 ]]; }

start_server "$W/home"
token=$(token_with "$PASSWORD")
same "a token opens the door" 200 "$(status_of "$token")"

check "users.yml holds the one password" test "$(grep -c '\$2[abxy]\$' "$DIR/users.yml")" -eq 1
sed -Ei "s#\\\$2[abxy]\\\$[0-9]{2}\\\$[./A-Za-z0-9]{53}#$OTHER_HASH#" "$DIR/users.yml"
check "without a signal the old token is dead at once" is_dead "$token"
refused "… and the old password" 'returned error: 401' token_with "$PASSWORD"
check "… and the new password is good" token_with "$OTHER"
token=$(token_with "$OTHER")
same "… and so is its token" 200 "$(status_of "$token")"

echo 'users: [' >"$DIR/users.yml"
same "a file with an error keeps the old users" 200 "$(status_of "$token")"
kill -HUP "$SERVER"
sleep 1
same "… after SIGHUP as well" 200 "$(status_of "$token")"
