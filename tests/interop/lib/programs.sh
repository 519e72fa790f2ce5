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
