# Curie's plugins of packaging/curie, with a stand-in for Geranos that fails as the real one does: with exit status 0.
# The step `geranos` runs them with the real one.

PLUGINS=$lib/../../../packaging/curie
export HOME=$W/home IMAGES=$W/images
mkdir -p "$HOME/.geranos" "$IMAGES" "$W/source" "$W/bin"
echo "images_directory: $IMAGES" >"$HOME/.geranos/config.yaml"

# Two segments, of which the second is not a whole number of blocks.
head -c 3146728 /dev/urandom >"$W/source/disk.img"
sha() { sha256sum | cut -d ' ' -f 1; }
one=$(head -c 2097152 "$W/source/disk.img" | sha)
two=$(tail -c +2097153 "$W/source/disk.img" | sha)
jq -n '{layers: [["0-2097151", "2097152-3146727"][] | {annotations: {filename: "disk.img", range: .}}]}' \
  >"$W/source/.oci.manifest.json"
jq -n --arg one "sha256:$one" --arg two "sha256:$two" '{rootfs: {diff_ids: [$one, $two]}}' >"$W/source/.oci.config.json"

# SAYS: what a push prints. DAMAGED: how many pulls lose a segment. Each call is a line in calls.
export SOURCE=$W/source CALLS=$W/calls GERANOS_BIN=$W/bin/geranos
cat >"$GERANOS_BIN" <<'SH'
#!/bin/bash
echo "$1" >>"$CALLS"
case $1 in
  push) echo "$SAYS" ;;
  pull)
    mkdir -p "$IMAGES/$2"
    cp -a "$SOURCE/." "$IMAGES/$2"
    (($(wc -l <"$CALLS") > DAMAGED)) ||
      dd if=/dev/zero of="$IMAGES/$2/disk.img" bs=1M seek=2 count=1 conv=notrunc status=none
    ;;
esac
exit 0
SH
chmod +x "$GERANOS_BIN"
plugin() { : >"$CALLS"; rm -rf "${IMAGES:?}"/*; "$PLUGINS/$1" --reference lab:5443/vm/base:v1; }
calls() { wc -l <"$CALLS"; }

export SAYS='push has completed successfully' DAMAGED=0
check "a push that says so has succeeded" plugin push
same "… at once" 1 "$(calls)"
SAYS='PATCH https://lab:5443/v2/: connection reset by peer'
refused "a push that prints an error has failed" 'was not pushed' plugin push
same "… after three tries" 3 "$(calls)"
SAYS='UNAUTHORIZED: authentication required'
refused "a push without a right has failed" 'was not pushed' plugin push
same "… and is not tried again" 1 "$(calls)"
check "a whole image has been pulled" plugin pull
same "… at once" 1 "$(calls)"
DAMAGED=1
check "a lost segment is fetched by another try" plugin pull
check "… and the disk is whole" cmp "$W/source/disk.img" "$IMAGES/lab:5443/vm/base:v1/disk.img"
DAMAGED=9
refused "an image that stays damaged was not pulled" 'disk.img, bytes 2097152 to 3146727' plugin pull
refused "… and is not taken for whole by the next pull" 'No such file' cat "$IMAGES/lab:5443/vm/base:v1/.oci.manifest.json"
refused "another option is refused" 'usage: pull' "$PLUGINS/pull" --image x
