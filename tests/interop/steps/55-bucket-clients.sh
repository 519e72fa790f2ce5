# The same clients with the data in a bucket: the steps that push, pull, copy, list and delete, on each real S3 server.

for server in "${S3_SERVERS[@]}"; do
  for file in "$lib"/../steps/{20-skopeo,33-crane,40-kill}.sh; do
    name=$(basename "$file" .sh)
    (
      set -e
      trap end_step EXIT
      STEP=$STEP:$server:${name#*-} W=$W/$server-$name
      mkdir -p "$W/user"
      HOME=$W/user
      # An earlier step may have logged in.
      rm -f "$AUTH"
      start_s3 "$server" "$W/s3"
      data_in_bucket
      # shellcheck source=/dev/null
      . "$file"
      check "no file of the registry is in a directory" test ! -e "$DIR/data"
    ) || fail "$server: $name ended early" "$T/server.log"
  done
done
