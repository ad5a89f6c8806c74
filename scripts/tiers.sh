# shellcheck shell=bash
# Functions that start, watch and stop the three tiers as processes. scripts/up sources this file, which uses the
# script's settings (DATA, PORT, …).
# shellcheck disable=SC2034,SC2153,SC2154

TIERS=() PIDS=()
PASSWORD=

build() {
  cargo build --manifest-path "$ROOT/Cargo.toml" "$@"
}

# Checks settings from the environment that the edge also needs. auth-service alone would start with these values, or would
# report them only after the build.
need_good_settings() {
  local rate=${REQUESTS_PER_SECOND:-300} proxies=${TRUSTED_PROXIES-} name=TRUSTED_PROXIES
  [[ $rate =~ ^[1-9][0-9]{0,6}$ ]] || die "REQUESTS_PER_SECOND is $rate. Write a number from 1 to 9999999."
  if [[ -z $proxies && -f ${TRUSTED_PROXIES_FILE-} && -r $TRUSTED_PROXIES_FILE ]]; then
    proxies=$(<"$TRUSTED_PROXIES_FILE") name=$TRUSTED_PROXIES_FILE
  fi
  [[ $proxies != *[![:space:]]* ]] || includes_loopback "$name" "$proxies" ||
    die "TRUSTED_PROXIES does not include 127.0.0.1, so auth-service would refuse all requests from the edge, which runs on this machine. Add 127.0.0.1 to $name, or remove the setting."
}

# includes_loopback NAME NETWORKS: whether a list such as 10.0.0.0/8, 192.0.2.7 includes the address 127.0.0.1. Exits if an
# entry is not a network.
includes_loopback() {
  local entry entries address bits loopback=$((127 << 24 | 1)) found=no
  local number='(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])'
  IFS=, read -ra entries -d '' <<<"$2" || true
  for entry in "${entries[@]}"; do
    entry=${entry#"${entry%%[![:space:]]*}"}
    entry=${entry%"${entry##*[![:space:]]}"}
    # No IPv6 network includes this address, and auth-service checks these networks itself.
    [[ -n $entry && ! $entry =~ ^[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(/[0-9]{1,3})?$ ]] || continue
    # As in auth-service, a number has no leading zero, because some programs would read it as octal.
    if ! [[ $entry =~ ^$number\.$number\.$number\.$number(/([0-9]|[12][0-9]|3[0-2]))?$ ]]; then
      die "\"$entry\" in $1 is not a network. Write it as 10.0.0.0/8 or 192.0.2.7."
    fi
    address=$((BASH_REMATCH[1] << 24 | BASH_REMATCH[2] << 16 | BASH_REMATCH[3] << 8 | BASH_REMATCH[4]))
    bits=${BASH_REMATCH[6]:-32}
    (((address ^ loopback) >> (32 - bits) != 0)) || found=yes
  done
  [[ $found == yes ]]
}

# in_group COMMAND…: starts a child in its own process group, which stop_all can stop as a whole.
in_group() {
  local rc=0
  set -m
  "$@" </dev/null 8>&- &
  STEP_PID=$!
  set +m
  wait "$STEP_PID" || rc=$?
  STEP_PID=
  return "$rc"
}

# make_secret FILE: creates a random secret of 256 bits, in a file that only this user can read.
make_secret() {
  [[ -s $1 ]] || head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=\n' >"$1"
}

# The inner listeners use any free loopback ports, so that several stacks can run side by side.
pick_ports() {
  local name port used=" $PORT "
  : >"$DATA/stack.env"
  for name in AUTH_PUBLIC_PORT AUTH_EDGE_PORT AUTH_EDGE_GRPC_PORT AUTH_OPS_PORT WRAPPER_PORT WRAPPER_OPS_PORT; do
    # These ports are below the range from which the kernel assigns ports to outgoing connections.
    while port=$((20000 + RANDOM % 12000)); [[ $used == *" $port "* ]] || port_is_taken "$port"; do :; done
    used+="$port "
    printf -v "$name" '%s' "$port"
    printf '%s=%s\n' "$name" "$port" >>"$DATA/stack.env"
  done
  printf 'MCP_URL=%s\nISSUER=%s\nOWNER=%s\n' "$MCP_URL" "$ISSUER" "$$" >>"$DATA/stack.env"
}

auth_service_command() {
  AUTH_SERVICE=(
    env
    ISSUER="$ISSUER"
    PROTECTED_HOSTS="$HOST"
    DATA_DIR="$DATA/auth"
    EDGE_SECRET_FILE="$DATA/secrets/edge-secret"
    PUBLIC_LISTEN="127.0.0.1:$AUTH_PUBLIC_PORT"
    EDGE_LISTEN="127.0.0.1:$AUTH_EDGE_PORT"
    EDGE_GRPC_LISTEN="127.0.0.1:$AUTH_EDGE_GRPC_PORT"
    OPS_LISTEN="127.0.0.1:$AUTH_OPS_PORT"
    LOG_FORMAT="${LOG_FORMAT:-text}"
    RUST_LOG="${RUST_LOG:-info}"
    "${DIE_WITH_PARENT[@]}" "$PROGRAMS/auth-service"
  )
}

# Only one process can use the embedded store, so this runs before the service.
make_account() {
  local out
  [[ -s $DATA/account ]] && return
  auth_service_command
  out=$("${AUTH_SERVICE[@]}" user add --new-store "$ACCOUNT" 2>"$DATA/log/account.log" </dev/null) || {
    tail -n 20 "$DATA/log/account.log" >&2
    die "The account $ACCOUNT could not be created. The output of auth-service is above."
  }
  PASSWORD=$(sed -n 's/^password: *//p' <<<"$out")
  [[ -n $PASSWORD ]] || die "auth-service created the account $ACCOUNT but did not print its password. Remove $DATA and start again."
  printf '%s\n' "$ACCOUNT" >"$DATA/account"
  # The password is printed here and again at the end, because it is not stored and must not be lost if the start fails
  # later.
  say "  The account $ACCOUNT was created, with the one-time password $PASSWORD"
}

# start NAME COMMAND…: starts a tier in its own process group, with its own log. The log of the previous start is kept.
start() {
  local name=$1 log=$DATA/log/$1.log
  shift
  [[ -f $log ]] && mv "$log" "$log.1"
  set -m
  "$@" >"$log" 2>&1 </dev/null 8>&- &
  TIERS+=("$name") PIDS+=("$!")
  set +m
  printf '%s_PID=%s\n' "$(tr 'a-z-' 'A-Z_' <<<"$name")" "$!" >>"$DATA/stack.env"
}

# Without this, kill -9 of this script would leave the tiers running. setpriv is part of util-linux.
DIE_WITH_PARENT=()
if have setpriv && setpriv --pdeathsig TERM true 2>/dev/null; then
  DIE_WITH_PARENT=(setpriv --pdeathsig TERM)
fi

start_auth_service() {
  auth_service_command
  start auth-service "${AUTH_SERVICE[@]}"
}

start_wrapper() {
  local command
  case $SERVER in
    everything)
      SERVER_TEXT="@modelcontextprotocol/server-everything"
      command=("$TOOLS/node/bin/node" "$TOOLS/npm/node_modules/@modelcontextprotocol/server-everything/dist/index.js" stdio)
      ;;
    time) SERVER_TEXT=mcp-server-time command=("$TOOLS/venv/bin/mcp-server-time" --local-timezone UTC) ;;
    example) SERVER_TEXT="the example server of this repository" command=("$PROGRAMS/example-server") ;;
  esac
  start stdio-wrapper env \
    LISTEN="127.0.0.1:$WRAPPER_PORT" \
    OPS_LISTEN="127.0.0.1:$WRAPPER_OPS_PORT" \
    MCP_PATH=/mcp \
    IDENTITY="$WRAPPER_IDENTITY" \
    JWKS_URL="http://127.0.0.1:$AUTH_PUBLIC_PORT$ISSUER_PATH/jwks" \
    ISSUER="$ISSUER" \
    RESOURCE="$MCP_URL" \
    LOG="${LOG:-${RUST_LOG:-info}}" \
    "${DIE_WITH_PARENT[@]}" "$PROGRAMS/stdio-wrapper" -- "${command[@]}"
}

# render_edge TEMPLATE FILE NAME=VALUE…: fills in the shipped configuration of an edge proxy for this machine.
render_edge() {
  local template=$1 file=$2 rate=${REQUESTS_PER_SECOND:-300}
  shift 2
  render "$ROOT/$template" EDGE_PORT="$PORT" \
    EDGE_SECRET="$(<"$DATA/secrets/edge-secret")" ISSUER_PATH="$ISSUER_PATH" \
    AUTH_ADDRESS=127.0.0.1 AUTH_PUBLIC_PORT="$AUTH_PUBLIC_PORT" AUTH_EDGE_PORT="$AUTH_EDGE_PORT" \
    AUTH_EDGE_GRPC_PORT="$AUTH_EDGE_GRPC_PORT" \
    WRAPPER_ADDRESS=127.0.0.1 WRAPPER_PORT="$WRAPPER_PORT" REQUESTS_PER_ADDRESS=512 \
    REQUESTS_PER_SECOND="$rate" REQUESTS_IN_A_ROW=$((3 * rate)) TRUSTED_IPS='' "$@" >"$DATA/$file"
}

# `localhost` is ::1 for some clients, so the edge also listens there if the machine has IPv6.
start_edge() {
  local second='' bind=127.0.0.1 address=127.0.0.1
  case $EDGE in
    envoy | envoy-grpc)
      if has_ipv6_loopback; then
        second="{ address: { socket_address: { address: \"::1\", port_value: $PORT } } }"
      fi
      render_edge "compose/envoy/$EDGE.yaml.in" envoy.yaml \
        EDGE_ADDRESS="$address" EDGE_ADDITIONAL_ADDRESSES="$second" \
        MCP_MATCH='path: /mcp' MCP_CLUSTER=stdio-wrapper MCP_HOST='' \
        MORE_LISTENERS='' MORE_FILTERS='' MORE_CLUSTERS=''
      # With hot restart, two Envoys on this machine would conflict, because they use shared memory with the same number.
      start envoy "${DIE_WITH_PARENT[@]}" "$ENVOY" -c "$DATA/envoy.yaml" --disable-hot-restart --log-level warning
      ;;
    nginx)
      if has_ipv6_loopback; then second="listen [::1]:$PORT default_server reuseport;"; fi
      mkdir -p "$DATA/nginx"
      render_edge compose/nginx/nginx.conf.in nginx.conf \
        EDGE_ADDRESS="$address" EDGE_ADDITIONAL_LISTEN="$second" RUN_DIR="$DATA/nginx" \
        MCP_LOCATION='= /mcp' MCP_URI=/mcp MORE_HTTP='' \
        TO_WRAPPER=stdio_wrapper TO_CHECK=auth_service_edge TO_AUTH_SERVICE=auth_service_public
      # Debian installs nginx in a directory that is only on root's PATH.
      start nginx "${DIE_WITH_PARENT[@]}" env PATH="$PATH:/usr/sbin" nginx -p "$DATA" -e stderr -c "$DATA/nginx.conf"
      ;;
    caddy)
      if has_ipv6_loopback; then bind+=' ::1'; fi
      render_edge compose/caddy/Caddyfile.in Caddyfile EDGE_SITE="http://:$PORT" EDGE_BIND="$bind" MCP_URI=/mcp
      start caddy "${DIE_WITH_PARENT[@]}" env XDG_DATA_HOME="$DATA" XDG_CONFIG_HOME="$DATA" \
        "$EDGE_PROGRAM" run --adapter caddyfile --config "$DATA/Caddyfile"
      ;;
    traefik)
      # An entry point has only one address, so a second entry point with the same settings listens on ::1. Routers that do
      # not name an entry point are on both.
      if has_ipv6_loopback; then second="edge-ipv6: { <<: *edge, address: \"[::1]:$PORT\" }"; fi
      mkdir -p "$DATA/traefik"
      render_edge traefik/dynamic.yaml.in traefik/dynamic.yaml
      render_edge traefik/service.yaml.in traefik/service.yaml
      render_edge traefik/traefik.yaml.in traefik.yaml \
        EDGE_ADDRESS="$address" DYNAMIC_DIR="$DATA/traefik" TLS='' MORE_ENTRY_POINTS="$second" MORE_PROVIDERS=''
      start traefik env GODEBUG=http2server=0 "${DIE_WITH_PARENT[@]}" "$EDGE_PROGRAM" --configFile="$DATA/traefik.yaml"
      ;;
  esac
}

# If a tier has exited, prints its name and the end of its log, and exits.
check_tiers() {
  local i rc
  for i in "${!PIDS[@]}"; do
    kill -0 "${PIDS[$i]}" 2>/dev/null && continue
    rc=0
    wait "${PIDS[$i]}" || rc=$?
    say "The end of $DATA/log/${TIERS[$i]}.log:" >&2
    tail -n 20 "$DATA/log/${TIERS[$i]}.log" | sed 's/^/    | /' >&2
    describe_exit "$rc"
    die "${TIERS[$i]} exited unexpectedly ($EXIT_TEXT), so the other tiers are also stopped. $EXIT_CAUSE"
  done
}

# describe_exit CODE: sets EXIT_TEXT and EXIT_CAUSE. A process that was killed by a signal could not log the reason.
describe_exit() {
  local name
  EXIT_TEXT="exit code $1" EXIT_CAUSE="Its log above shows the reason."
  if (($1 > 128)) && name=$(kill -l "$(($1 - 128))" 2>/dev/null); then
    EXIT_TEXT="killed by SIG$name"
    EXIT_CAUSE="If nobody sent this signal, this is a fault of the program: report it together with its log."
    if [[ $name == KILL ]]; then
      EXIT_CAUSE="If nobody ran kill -9, the machine or the container might have run out of memory: see the kernel log (dmesg)."
    fi
  fi
}

# The stack is ready when a request through the edge gets a challenge.
wait_until_ready() {
  local answer='' health='' deadline=$((SECONDS + 60))
  local challenge="resource_metadata=\"http://$HOST/.well-known/oauth-protected-resource"
  say "  Waiting for a first response through the edge …"
  while ((SECONDS < deadline)); do
    check_tiers
    answer=$(http_head "$PORT" POST /mcp "$HOST") || answer=
    health=$(http_head "$WRAPPER_OPS_PORT" GET /health "127.0.0.1:$WRAPPER_OPS_PORT") || health=
    if [[ $answer == "HTTP/1.1 401"*"$challenge"* && $health == "HTTP/1.1 200"* ]]; then
      return
    fi
    sleep 0.2
  done
  [[ -z $answer ]] || printf '    | %s\n' "${answer//$'\n'/$'\n    | '}" >&2
  die "The stack did not answer as expected within 60 s. If there was a response, the last one is above. The logs are in $DATA/log/."
}

supervise() {
  while :; do
    wait -n "${PIDS[@]}" 2>/dev/null || true
    check_tiers
  done
}

# The edge is stopped first, so that no client can reach a stack that is only partly running.
stop_all() {
  local i pid tries
  trap '' INT TERM HUP
  trap - EXIT
  stop_step
  ((${#PIDS[@]} == 0)) || say "Stopping: running calls can take some seconds."
  for ((i = ${#PIDS[@]} - 1; i >= 0; i--)); do
    pid=${PIDS[$i]}
    kill -TERM -- "-$pid" 2>/dev/null || continue
    for ((tries = 0; tries < 100; tries++)); do
      kill -0 -- "-$pid" 2>/dev/null || break
      sleep 0.1
    done
    kill -KILL -- "-$pid" 2>/dev/null && say "${TIERS[$i]} did not stop within 10 s and was killed." >&2
    wait "$pid" 2>/dev/null || true
  done
  ((${#PIDS[@]} == 0)) || say "Stopped."
  PIDS=()
}
