# The programs that the scripts run, installed from Debian's packages where they are missing.

# need PROGRAM=PACKAGE… : afterwards every PROGRAM is there, or the run has ended with a reason.
need() {
  local pair missing=()
  for pair in "$@"; do
    command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
  done
  if ((${#missing[@]})); then
    echo "installing: ${missing[*]}" >&2
    if ((EUID != 0)) || ! command -v apt-get >/dev/null; then
      echo "error: these packages are missing and only root on Debian can install them here: ${missing[*]}" >&2
      exit 1
    fi
    apt-get update -qq >&2
    # Run level 1: the packages' services (dockerd, docker-registry) are not started by their installation.
    RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
      apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2 </dev/null
  fi
  for pair in "$@"; do
    command -v "${pair%%=*}" >/dev/null || { echo "error: no ${pair%%=*} after installing ${pair#*=}" >&2; exit 1; }
  done
}

# The newest version that a go.mod of the programs below asks for.
GO_MINIMUM=1.26.7

# need_go PROGRAM=MODULE@VERSION… : afterwards every PROGRAM of that version is first in PATH. Built from source once
# per machine and version, outside the repository; without C, so that names are looked up by Go itself, in /etc/hosts.
need_go() {
  local cache=${XDG_CACHE_HOME:-$HOME/.cache}/boathouse-ci/go pair program module place part
  for pair in "$@"; do
    program=${pair%%=*} module=${pair#*=}
    place=$cache/$program-${module##*@}/bin
    if [[ ! -x $place/$program ]]; then
      go_compiler
      echo "building: $module" >&2
      mkdir -p "$cache"
      # Under another name until it is whole: an interrupted build must not look like a finished one.
      part=$(mktemp -d "$cache/part.XXXXXX")
      if ! GOBIN=$part CGO_ENABLED=0 nice go install "$module" >&2 || [[ ! -x $part/$program ]]; then
        rm -rf "$part"
        echo "error: $program could not be built from $module by $(go version)" >&2
        exit 1
      fi
      mkdir -p "$place"
      mv "$part/$program" "$place/$program"
      rm -rf "$part"
    fi
    PATH=$place:$PATH
  done
}

# go_compiler : there is a `go`, from Debian's packages only where that one is new enough. One that is there and too old
# says so itself, or fetches the version it needs, as its GOTOOLCHAIN says.
go_compiler() {
  local candidate
  command -v go >/dev/null && return
  candidate=$(apt-cache policy golang-go 2>/dev/null | sed -nE 's/^ *Candidate: ([0-9]+:)?([0-9.]+).*/\2/p') || true
  if [[ $(printf '%s\n' "$GO_MINIMUM" "${candidate:-0}" | sort -V | head -n 1) != "$GO_MINIMUM" ]]; then
    echo "error: no go in PATH, and this system's package is ${candidate:-missing}: install Go $GO_MINIMUM or newer" >&2
    exit 1
  fi
  need go=golang-go
}

# given_program VARIABLE… : afterwards every VARIABLE is the absolute path of a program, or empty where none was given.
given_program() {
  local variable
  for variable in "$@"; do
    printf -v "$variable" '%s' "${!variable:+$(realpath "${!variable}")}"
    [[ -z ${!variable} || -x ${!variable} ]] || { echo "error: $variable=${!variable} cannot be run" >&2; exit 1; }
  done
}
