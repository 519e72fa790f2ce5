# What both crash tests share: arguments, and the way into a world of their own.

lib=$(cd "$(dirname "${BASH_SOURCE[0]}")/../interop/lib" && pwd)
# shellcheck source=tests/interop/lib/programs.sh
. "$lib/programs.sh"
# shellcheck source=tests/interop/lib/world.sh
. "$lib/world.sh"
# shellcheck source=tests/interop/lib/build.sh
. "$lib/build.sh"

ROUNDS=200
SEED=
FAULT=

# arguments ARGUMENT… : ROUNDS, SEED and, where the script has set TAKES_FAULT, FAULT are set from them.
arguments() {
  local number='^[0-9]+$'
  while (($#)); do
    case $1 in
      --rounds) [[ ${2:-} =~ $number ]] && ROUNDS=$2 || usage ;;
      --seed) [[ ${2:-} =~ $number ]] && SEED=$2 || usage ;;
      --fault) [[ -n ${TAKES_FAULT:-} && -n ${2:-} ]] && FAULT=$2 || usage ;;
      *) usage ;;
    esac
    shift 2
  done
}

usage() {
  echo "usage: tests/crash/$(basename "$0") [--rounds N] [--seed N]${TAKES_FAULT:+ [--fault FAULT]}" >&2
  exit 2
}

# crash_test TEST VARIABLE=VALUE… : runs one test of tests/it/crash in a world of its own, with its files in that world's
# directory, so that nothing outlives the run, however it ends.
crash_test() {
  local test=$1 variables=(BOATHOUSE_CRASH_ROUNDS="$ROUNDS" RUST_BACKTRACE=0)
  shift
  [[ -z $SEED ]] || variables+=(BOATHOUSE_CRASH_SEED="$SEED")
  [[ -z ${BOATHOUSE:-} ]] || variables+=(BOATHOUSE="$(realpath "$BOATHOUSE")")
  # shellcheck disable=SC2016 # T is known inside
  in_world "${variables[@]}" "$@" -- bash -c 'TMPDIR=$T exec "$@"' - \
    "$TESTS" "crash::$test" --exact --include-ignored --nocapture --quiet
}
