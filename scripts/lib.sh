# shellcheck shell=bash
# Functions that all scripts share: paths, output, and failures. This file is sourced, not run.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC2034 # used by the scripts that source this file
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}
# Several checkouts can share one directory for the tools.
TOOLS=${MCP_GATE_TOOLS:-$ROOT/.tools}
# If another script runs scripts/tools, it installs into the same directory.
export MCP_GATE_TOOLS=$TOOLS

say() { printf '%s\n' "$*"; }

# An error message has one sentence with the cause and one with the fix.
die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

STEP_PID=

# step TEXT COMMAND…: runs a command, and prints one line with its purpose, duration and result. The output of the
# command goes to a log, and the end of the log is shown if the command fails. The command has its own process group, so
# that stop_step can stop all of it.
step() {
  local text=$1 log rc=0 start=$SECONDS shown=0
  shift
  mkdir -p "$TOOLS/log"
  log=$TOOLS/log/$(printf '%s' "$text" | tr -cs 'A-Za-z0-9.' '-' | cut -c1-60).log
  printf '  %s …' "$text"
  set -m
  "$@" >"$log" 2>&1 </dev/null &
  STEP_PID=$!
  set +m
  while kill -0 "$STEP_PID" 2>/dev/null; do
    if ((SECONDS - start >= shown + 20)); then
      shown=$((SECONDS - start))
      printf ' %d s …' "$shown"
    fi
    sleep 0.2
  done
  wait "$STEP_PID" || rc=$?
  STEP_PID=
  if ((rc == 0)); then
    printf ' done (%d s)\n' "$((SECONDS - start))"
    return 0
  fi
  printf ' failed (%d s)\n' "$((SECONDS - start))"
  tail -n 20 "$log" | sed 's/^/    | /' >&2
  return "$rc"
}

stop_step() {
  [[ -n $STEP_PID ]] || return 0
  printf '\n'
  kill -TERM -- "-$STEP_PID" 2>/dev/null || true
  STEP_PID=
}

need_cargo() {
  have cargo || die "There is no cargo on the PATH. Install Rust with rustup; rust-toolchain.toml then selects the version."
  # The allocator of the two programs is written in C.
  { have cc && have make; } ||
    die "There is no C compiler or no make on the PATH. Install both (Debian: apt-get install build-essential)."
}

need_python() {
  have python3 || die "There is no python3 on the PATH. Install Python 3.10 or newer (Debian: apt-get install python3 python3-venv)."
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    die "$(python3 -V) is too old. Install Python 3.10 or newer (Debian: apt-get install python3 python3-venv)."
}

is_debian_root() { [[ $(id -u) == 0 ]] && have apt-get; }

apt_install() {
  apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@"
}

# Whether a program listens on this loopback port, over IPv4 or IPv6.
port_is_taken() {
  (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null || (exec 3<>"/dev/tcp/::1/$1") 2>/dev/null
}

has_ipv6_loopback() { grep -qs '^0\{31\}1 ' /proc/net/if_inet6; }

# render TEMPLATE NAME=VALUE…: prints the template with each @NAME@ replaced. Values are not passed as arguments of
# another program, because every user of the machine can read the arguments of programs.
render() {
  local text pair
  text=$(<"$1")
  for pair in "${@:2}"; do
    text=${text//"@${pair%%=*}@"/"${pair#*=}"}
  done
  if [[ $text =~ @[A-Z][A-Z0-9_]*@ ]]; then
    die "$1 has a placeholder without a value: ${BASH_REMATCH[0]}. Give it a value where the file is rendered."
  fi
  printf '%s\n' "$text"
}

# http_head PORT METHOD PATH HOST: prints the status line and headers of the response on a loopback port. It needs only
# bash.
http_head() {
  local line
  {
    exec 3<>"/dev/tcp/127.0.0.1/$1"
  } 2>/dev/null || return 1
  printf '%s %s HTTP/1.1\r\nHost: %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n' "$2" "$3" "$4" 2>/dev/null >&3 || return 1
  # A server that is still starting might disconnect. The lines that it has sent by then are the response.
  while IFS= read -r -t 5 line <&3; do
    line=${line%$'\r'}
    [[ -n $line ]] || break
    printf '%s\n' "$line"
  done 2>/dev/null
  exec 3>&-
}

# Sets AUTH_SERVICE to the program: the one that the variable already names, the one on the PATH, or the one that was
# built here.
find_auth_service() {
  local program
  for program in "${AUTH_SERVICE-}" "$(command -v auth-service || true)" "$TARGET"/{release,quick,debug}/auth-service; do
    if [[ -n $program && -x $program ]]; then
      AUTH_SERVICE=$program
      return
    fi
  done
  die "There is no auth-service on the PATH, and none was built here. Run cargo build --workspace --bin auth-service in this checkout, or name the program with AUTH_SERVICE."
}

# set_in_env FILE NAME VALUE: replaces the line NAME=… of a file of settings, or appends it.
set_in_env() {
  local line text='' found=no
  while IFS= read -r line || [[ -n $line ]]; do
    if [[ $line == "$2="* ]]; then
      line="$2=$3" found=yes
    fi
    text+=$line$'\n'
  done <"$1"
  [[ $found == yes ]] || text+="$2=$3"$'\n'
  printf '%s' "$text" >"$1"
}

# env_value FILE NAME: prints the value in the file, or nothing.
env_value() { sed -n "s/^$2=//p" "$1" | tail -n 1; }
