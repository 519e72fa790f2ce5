# The same requests to the real docker-registry and to ours: each difference that a client could see stands with its reason
# in docs/compatibility.md, and no other (tests/it/same_answers).

check "every difference has its reason, and no reason has lost its difference" \
  env BOATHOUSE_DOCKER_REGISTRY="$(command -v docker-registry)" \
  "$TESTS" same_answers::the_old_registry_and_ours_answer_alike --exact --include-ignored --nocapture
