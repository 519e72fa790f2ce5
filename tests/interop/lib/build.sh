# boathouse_program : BOATHOUSE is afterwards the absolute path of the program under test, built here unless it was given.
# The dev profile: lints, tests and this use one and the same build.
boathouse_program() {
  if [[ -z ${BOATHOUSE:-} ]]; then
    local root
    root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
    (cd "$root" && cargo build --locked --bin boathouse)
    BOATHOUSE=${CARGO_TARGET_DIR:-$root/target}/debug/boathouse
  fi
  BOATHOUSE=$(realpath "$BOATHOUSE")
  [[ -x $BOATHOUSE ]] || { echo "error: $BOATHOUSE cannot be run" >&2; exit 1; }
}

# built_tests VARIABLE TARGET… : VARIABLE is afterwards the absolute path of the built tests of that target (`--test it`), with
# the program that they start.
built_tests() {
  local variable=$1 root found
  shift
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
  # The first time for a person to see what the compiler says, the second time for the path. It is the only program there whose
  # profile is that of tests.
  (cd "$root" && cargo test --locked "$@" --no-run)
  found=$(cd "$root" && cargo test --locked "$@" --no-run --quiet --message-format json |
    sed -n 's/.*"test":true},"features".*"executable":"\([^"]*\)".*/\1/p')
  [[ -x $found ]] || { echo "error: no program of the tests of $*" >&2; exit 1; }
  printf -v "$variable" '%s' "$found"
}

# integration_tests : TESTS is afterwards the absolute path of the built tests/it.
integration_tests() { built_tests TESTS --test it; }

# fleet_program : FLEET is afterwards the absolute path of tests/bench/fleet, built with the profile of everything else.
fleet_program() {
  local root
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
  (cd "$root" && cargo build --locked --bench fleet)
  FLEET=$(cd "$root" && cargo build --locked --bench fleet --quiet --message-format json |
    sed -n 's/.*"name":"fleet".*"executable":"\([^"]*\)".*/\1/p')
  [[ -x $FLEET ]] || { echo "error: no program of tests/bench/fleet" >&2; exit 1; }
}
