# The workload that has broken a registry over a bucket in the field, on the real MinIO: see tests/bench/fleet. FLEET_BYTES is
# the size of one release: 4 GiB here, 58 GB by hand.

mkdir "$W/buckets"
MINIO_ROOT_USER=fleet MINIO_ROOT_PASSWORD=fleet-secret MINIO_BROWSER=off \
  minio server --quiet --address 127.0.0.1:9000 "$W/buckets" >"$T/minio.log" 2>&1 &
wait_until 60 curl -sf http://127.0.0.1:9000/minio/health/ready || fail "MinIO does not start" "$T/minio.log"
check "no session is lost, and every byte is there" "$FLEET" --server "Boathouse=boathouse=$BOATHOUSE" --rounds 0 \
  --bytes "${FLEET_BYTES:-4294967296}" --directory "$W" --buckets "$W/buckets" --endpoint http://127.0.0.1:9000 \
  --access-key fleet --secret-key fleet-secret
sed 's/^/      /' "$T/output"
