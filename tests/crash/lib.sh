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
FILE_SYSTEM=

# arguments ARGUMENT… : ROUNDS, SEED and, where the script has set CUTS_POWER, FAULT and FILE_SYSTEM are set from them.
arguments() {
  while (($# > 1)); do
    case $1 in
      --rounds) ROUNDS=$2 ;;
      --seed) SEED=$2 ;;
      --fault) FAULT=$2 ;;
      --file-system) FILE_SYSTEM=$2 ;;
      *) usage ;;
    esac
    shift 2
  done
  [[ $# == 0 && $ROUNDS =~ ^[1-9][0-9]*$ && $SEED =~ ^[0-9]*$ ]] || usage
  [[ -z $FAULT$FILE_SYSTEM || -n ${CUTS_POWER:-} ]] || usage
}

usage() {
  echo "usage: tests/crash/$(basename "$0") [--rounds N] [--seed N]${CUTS_POWER:+ [--file-system ext4|btrfs] [--fault FAULT]}" >&2
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
