# The suites of the tests on real S3 servers: what stores rely on, the seam's suite, and the API's.

for server in "${S3_SERVERS[@]}"; do
  start_s3 "$server" "$W/$server"
  real=$(s3_test_variable)
  check "$server: what stores rely on" env "$real" "$TESTS_ON_BUCKET" s3_server_exactness
  check "$server: the seam's suite" env "$real" "$UNIT_TESTS" store::s3
  check "$server: the API's suite" env "$real" "$TESTS_ON_BUCKET" --skip s3_server_exactness
  stop_s3
done
