# The OCI conformance suite with the data in a bucket: every test ends as it does with a directory.

start_s3 minio "$W/s3"
data_in_bucket
# shellcheck source=tests/interop/steps/90-conformance.sh
. "$lib/../steps/90-conformance.sh"
