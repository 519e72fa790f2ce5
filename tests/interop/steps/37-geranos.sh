# Geranos, as its users move VM images: push, pull, push again, from another repository, over a restart; who is refused.
#
# It cannot be installed by name: GERANOS_BIN names it. It ends with status 0 whatever happens and its login asks nobody,
# so a push is judged by the line it prints in the end, and a pull by the files. It neither lists nor deletes.

[[ -n $GERANOS_BIN ]] || { not_run geranos; return; }

start_server "$W/home"
mkdir -p "$HOME/.geranos" "$W/vm" "$W/images"
echo "images_directory: $W/images" >"$HOME/.geranos/config.yaml"
echo '{}' >"$W/vm/config.json" # an empty file would fail the push
# 64 MiB a segment: three with data, and zeros that all are one and the same blob.
truncate -s 400M "$W/vm/disk.img"
dd if=/dev/urandom of="$W/vm/disk.img" bs=1M count=140 seek=10 conv=notrunc status=none

vm=$REGISTRY/lab/vm:v1
geranos() { SSL_CERT_FILE=$CA geranos_without_trust "$@"; }
geranos_without_trust() { "$GERANOS_BIN" "$@"; }
login() { geranos login "$REGISTRY" -u admin -p "$1"; }
# says_pushed COMMAND… : what the command says is printed, and it said in the end that it pushed.
says_pushed() { "$@" 2>&1 | tee "$W/push.log" && grep -q 'push has completed successfully' "$W/push.log"; }
push_vm() { says_pushed geranos push "$@"; }
# pull_vm REFERENCE DIRECTORY
pull_vm() { mkdir "$2" && GERANOS_IMAGES_DIRECTORY=$2 geranos pull "$1"; }
same_files() { check "$1" diff -r --exclude='.oci.*' "$2" "$3"; }

geranos adopt "$W/vm" "$vm"
refused "push without login" 'unauthorized|authentication required' push_vm "$vm"
login wrong 2>"$W/login"
refused "push with a wrong password" 'unauthorized|401' push_vm "$vm"
check "login" login "$PASSWORD"
refused "push while the CA is unknown" 'certificate signed by unknown authority' \
  says_pushed geranos_without_trust push "$vm"
same "what was refused is not there" 404 "$(anonymous -u "admin:$PASSWORD" "$URL/v2/lab/vm/manifests/v1")"

check "push" push_vm "$vm"
check "pull" pull_vm "$vm" "$W/back"
same_files "the machine came back" "$W/vm" "$W/back/$vm"
mark_log
check "push the same again" push_vm "$vm"
check "… which ends with a manifest" was_asked 1 manifest-put 201 /v2/lab/vm/
check "… and sends no segment, only a config of now" test "$(asked upload-finish 201 /v2/lab/vm/)" -le 1

geranos adopt "$W/vm" "$REGISTRY/lab/copy:v1"
copies_by_mount "push to another repository" lab/copy:v1 4 1 push_vm "$REGISTRY/lab/copy:v1" --mount "$vm"
check "pull it from there" pull_vm "$REGISTRY/lab/copy:v1" "$W/copy-back"
same_files "the copy came back" "$W/vm" "$W/copy-back/$REGISTRY/lab/copy:v1"

# New bytes in a new repository, so that all must be sent.
dd if=/dev/urandom of="$W/vm/disk.img" bs=1M count=380 seek=10 conv=notrunc status=none
broken=$REGISTRY/lab/broken:v1
geranos adopt "$W/vm" "$broken"
mark_log
push_vm "$broken" >"$W/broken.log" 2>&1 &
pushing=$!
check "a push has begun" wait_until 60 has_been_asked 1 upload-begin 202 /v2/lab/broken/
kill_server
start_server "$DIR"
wait "$pushing" || true
check "push again after the server was killed in the middle" push_vm "$broken"
check "pull it" pull_vm "$broken" "$W/broken-back"
same_files "the machine came back whole" "$W/vm" "$W/broken-back/$broken"

# Curie's plugins, which judge Geranos by what it prints and by the disk.
PLUGINS=$lib/../../../packaging/curie
plugin() { SSL_CERT_FILE=$CA "$PLUGINS/$1" --reference "$2"; }
check "Curie's push plugin" plugin push "$vm"
geranos rm "$vm"
check "Curie's pull plugin" plugin pull "$vm"
refused "Curie's pull plugin says that there is no such image" 'was not pulled whole' plugin pull "$REGISTRY/lab/none:v1"
