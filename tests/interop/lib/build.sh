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
