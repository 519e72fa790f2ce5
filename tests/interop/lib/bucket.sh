# Real S3 servers, with one bucket and one account each.

S3_KEY=an-access-key
S3_SECRET=a-secret-of-the-account
S3_REGION=us-east-1
S3_BUCKET=boathouse
S3_SERVERS=(minio versitygw)

# start_s3 NAME DIR : S3_SERVER is its process and S3_ENDPOINT its address; what it stores is in DIR, which may hold a bucket.
start_s3() {
  S3_NAME=$1 S3_DIR=$2
  mkdir -p "$2"
  case $1 in
    minio)
      S3_ENDPOINT=http://127.0.0.1:9000
      MINIO_ROOT_USER=$S3_KEY MINIO_ROOT_PASSWORD=$S3_SECRET MINIO_BROWSER=off \
        minio server --quiet --address 127.0.0.1:9000 "$2" >>"$T/s3.log" 2>&1 &
      ;;
    versitygw)
      S3_ENDPOINT=http://127.0.0.1:7070
      versitygw --port 127.0.0.1:7070 --access "$S3_KEY" --secret "$S3_SECRET" --region "$S3_REGION" --quiet \
        posix "$2" >>"$T/s3.log" 2>&1 &
      ;;
  esac
  S3_SERVER=$!
  # A server that has just started refuses for a moment, also what it has.
  if ! wait_until 30 has_bucket; then
    fail "$1 does not answer" "$T/s3.log"
    exit 1
  fi
}

# has_bucket : the bucket is there, or is made.
has_bucket() { s3 "$S3_ENDPOINT/$S3_BUCKET?location=" || s3 -X PUT "$S3_ENDPOINT/$S3_BUCKET"; }

stop_s3() {
  kill -TERM "$S3_SERVER"
  wait_for_end 15 "$S3_SERVER" || fail "$S3_NAME does not end" "$T/s3.log"
}

kill_s3() {
  kill -KILL "$S3_SERVER"
  wait_for_end 5 "$S3_SERVER" 2>/dev/null # where bash would say "Killed"
}

# s3 CURL-ARGUMENT… : a signed request; an answer from 400 on is a failure.
s3() {
  curl -sS --fail --aws-sigv4 "aws:amz:$S3_REGION:s3" --user "$S3_KEY:$S3_SECRET" -H 'x-amz-content-sha256: UNSIGNED-PAYLOAD' "$@"
}

# s3_keys [PREFIX] : the keys of the bucket, one in a line, no more than a page of them.
s3_keys() {
  s3 "$S3_ENDPOINT/$S3_BUCKET?list-type=2&prefix=$(jq -rn --arg prefix "${1:-}" '$prefix | @uri')" |
    grep -o '<Key>[^<]*' | cut -c 6-
}

# s3_test_variable : what tells the tests where the bucket is.
s3_test_variable() { echo "BOATHOUSE_TEST_S3=${S3_ENDPOINT/:\/\//:\/\/$S3_KEY:$S3_SECRET@}/$S3_BUCKET"; }

# data_in_bucket : from here on start_server keeps the data in the bucket, below the name of its directory.
data_in_bucket() {
  eval "$(declare -f start_server | sed '1s/start_server/start_server_with_files/')"
  start_server() {
    local root=${1##*/} file=$1/boathouse.yml
    if [[ ! -e $file ]]; then
      # The files of a first run, with accounts and certificates; then the one section is replaced.
      start_server_with_files "$1"
      stop_server
      rm -rf "$1/data" "$1"/index*
      sed -Ei "s|^  filesystem: .*|  s3: $(s3_section "$root")|" "$file"
      check "the data are in the bucket" grep -F "regionendpoint: \"$S3_ENDPOINT\"" "$file"
    fi
    start_server_with_files "$1"
  }
}

# s3_section ROOT : `storage.s3` as Boathouse and the old registries read it, in one line.
s3_section() {
  echo "{accesskey: \"$S3_KEY\", secretkey: \"$S3_SECRET\", region: \"$S3_REGION\", regionendpoint: \"$S3_ENDPOINT\"," \
    "bucket: \"$S3_BUCKET\", rootdirectory: \"/$1\", secure: false}"
}
