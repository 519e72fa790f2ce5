# The OCI distribution-spec conformance suite with every flag on, twice: without references being looked for and with.
#
# conformance-expected.json has every test's name, how often it is run and how it ends. Names are compared, not counts: the
# suite calls a run with skips passed. The suite walks maps, so its order differs from run to run, and a name can occur
# more than once (an image has two layers). CONFORMANCE_RENEW=yes writes the file anew.

EXPECTED=$lib/../conformance-expected.json
FOUND=$W/found.json

# Named one by one, so that nothing depends on what the suite takes for a version's default.
FLAGS=(
  OCI_API_{PING,PULL,PUSH,REFERRER}
  OCI_API_BLOBS_{ATOMIC,DELETE,DIGEST_HEADER,MOUNT_ANONYMOUS,UPLOAD_CANCEL}
  OCI_API_MANIFESTS_{ATOMIC,DELETE,DIGEST_HEADER,TAG_PARAM}
  OCI_API_TAGS_{ATOMIC,DELETE,LIST}
  OCI_DATA_{IMAGE,INDEX,INDEX_LIST,ARTIFACT,SUBJECT,SUBJECT_MISSING,ARTIFACT_LIST,SUBJECT_LIST,DATA_FIELD}
  OCI_DATA_{NONDISTRIBUTABLE,CUSTOM_FIELDS,NO_LAYERS,EMPTY_BLOB,SHA512}
)

# conformance_suite SPARSE RESULTS : SPARSE says whether manifests are pushed whose references are not there.
conformance_suite() {
  env "${FLAGS[@]/%/=true}" OCI_DATA_SPARSE="$1" OCI_VERSION=dev OCI_REGISTRY="$REGISTRY" OCI_TLS=enabled \
    SSL_CERT_FILE="$CA" OCI_USERNAME=admin OCI_PASSWORD="$PASSWORD" OCI_RESULTS_DIR="$2" conformance >"$2/report"
}

# tests_of REPORT : the tree of results, as {"image/push": {"Pass": 1}, …}.
tests_of() {
  sed -n '/^Test results/,/^Configuration:/s|^ *OCI Conformance Test/\(.*: [A-Za-z]*\)$|\1|p' "$1" |
    jq -nRS 'reduce (inputs | capture("^(?<name>.*): (?<status>[A-Za-z]+)$")) as $test ({}; .[$test.name][$test.status] += 1)'
}

# counts_of REPORT : the suite's own totals, as {"Pass": 986, …}.
counts_of() {
  sed -nE '/^OCI Conformance Result/,/^ *Total/s/^ *([A-Za-z]+)\.+: +([0-9]+)$/\1 \2/p' "$1" |
    jq -nRS '[inputs | split(" ") | {(.[0]): (.[1] | tonumber)}] | add'
}

# differences REFERENCES : one line for each name whose results are not the expected ones.
differences() {
  jq -nr --arg run "$1" --slurpfile expected "$EXPECTED" --slurpfile found "$FOUND" '
    ($expected[0][$run] // {}) as $expected | $found[0][$run] as $found |
    ($expected + $found | keys[]) | select($expected[.] != $found[.]) |
    "\(.): expected \($expected[.] // "nothing" | tojson), found \($found[.] // "nothing" | tojson)"'
}

# run_suite REFERENCES SPARSE : against a fresh server whose validation.manifests.references is REFERENCES.
run_suite() {
  local references=$1 results=$W/results-$1 report=$W/results-$1/report began=$SECONDS tests counts
  mkdir "$results"
  start_server "$W/home-$references"
  stop_server
  sed -Ei "s/^(validation:.*)references: [a-z]+/\1references: $references/" "$DIR/boathouse.yml"
  check "$references: so it is configured" grep -q "^validation:.*references: $references}" "$DIR/boathouse.yml"
  start_server "$DIR"
  check "$references: the suite passes" conformance_suite "$2" "$results"
  stop_server

  # It ends with success even where it could not read its configuration.
  same "$references: nothing else is switched off" "sparse: $2" \
    "$(sed -n '/^Configuration:/,/^OCI Conformance Result/p' "$report" | grep -E 'sparse:|: false$' | sort -u | xargs)"
  counts=$(counts_of "$report")
  echo "      $references: $(jq -r 'to_entries | map("\(.value) \(.key)") | join(", ")' <<<"$counts"), $((SECONDS - began)) s"
  same "$references: no failure, no error, no skip" '[0,0,0,0]' "$(jq -c '[.FAIL, .Error, .Skip, .Disabled]' <<<"$counts")"
  # Beside the tree: a result can be counted more than once.
  tests=$(tests_of "$report" | jq --argjson counts "$counts" '. + {counts: $counts}')
  jq --arg run "$references" --argjson tests "$tests" '.[$run] = $tests' "$FOUND" >"$FOUND.new"
  mv "$FOUND.new" "$FOUND"
  differences "$references" >"$results/differences"
  if [[ -n $CONFORMANCE_RENEW ]]; then
    echo "      $references: $(wc -l <"$results/differences") names are not as before"
  elif [[ -s $results/differences ]]; then
    fail "$references: every test by name, and how it ends"
  else
    ok "$references: every test by name, and how it ends"
  fi
  # All of them, not only the last as `fail` does.
  sed 's/^/      | /' "$results/differences"
}

echo '{}' >"$FOUND"
[[ -n $CONFORMANCE_RENEW ]] || check "it is known what to expect" test -s "$EXPECTED"
[[ -s $EXPECTED ]] || echo '{}' >"$EXPECTED"
# What is not looked for need not be there; where it is looked for, the data of `sparse` is rightly refused.
run_suite any true
run_suite strict false
if [[ -n $CONFORMANCE_RENEW ]]; then
  # One test in a line.
  jq -rS 'to_entries | map("\(.key | tojson): {\n" + (.value | to_entries | map("  \(.key | tojson): \(.value | tojson)") | join(",\n")) + "\n}") | "{\n" + join(",\n") + "\n}"' \
    "$FOUND" >"$EXPECTED"
  echo "      written: $EXPECTED"
fi
