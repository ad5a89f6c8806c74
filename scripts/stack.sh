# shellcheck shell=bash
# Functions for the scripts that handle the stack in containers. This file is sourced, not run.
# shellcheck disable=SC2034,SC2153,SC2154

# shellcheck source=scripts/settings.sh
source "$ROOT/scripts/settings.sh"

ENV_FILE=$ROOT/.env
SERVICES_FILE=$ROOT/compose/services.yaml
COMPOSE=() STACK_CANNOT=''

# Sets COMPOSE to the command of Compose, or STACK_CANNOT to the reason why there is none.
stack_can_run() {
  if ! have docker; then
    STACK_CANNOT="there is no docker on the PATH."
  elif ! docker version >/dev/null 2>&1; then
    STACK_CANNOT="no Docker engine answers: start it, or allow this user to use it."
  elif docker compose version >/dev/null 2>&1; then
    COMPOSE=(docker compose)
  elif have docker-compose; then
    COMPOSE=(docker-compose)
  else
    STACK_CANNOT="there is neither \"docker compose\" nor docker-compose."
  fi
  ((${#COMPOSE[@]}))
}

need_stack() {
  stack_can_run || die "This command is only for containers, and $STACK_CANNOT"
  [[ -f $ENV_FILE ]] || die "There is no .env, so no stack was started here before. Run scripts/up first."
}

# compose ARGUMENT…: runs Compose on this stack. Only .env in the root determines the files of the stack. A
# COMPOSE_FILE in the environment would change where the old Compose looks for .env.
compose() { (cd "$ROOT" && env -u COMPOSE_FILE -u COMPOSE_PROJECT_NAME -u COMPOSE_PROFILES "${COMPOSE[@]}" "$@"); }

setting() { env_value "$ENV_FILE" "$1"; }

# Prints the container of a service, if there is one.
container_of() { compose ps -q "$1" 2>/dev/null | head -n 1; }

health_of() {
  docker inspect -f '{{if .State.Health}}{{.State.Health.Status}}{{else}}{{.State.Status}}{{end}}' "$1" 2>/dev/null
}

# wait_for_health SERVICE SECONDS
wait_for_health() {
  local deadline=$((SECONDS + $2)) state=''
  while ((SECONDS < deadline)); do
    state=$(health_of "$(container_of "$1")") || state=
    case $state in
      healthy | running) return 0 ;;
      exited | dead) break ;;
    esac
    sleep 0.3
  done
  compose logs --tail 20 "$1" 2>&1 | sed 's/^/    | /' >&2
  return 1
}

stack_files() {
  local socket
  if [[ ! -f $ENV_FILE ]]; then
    cp "$ROOT/.env.example" "$ENV_FILE"
    say "  Settings are in .env"
  fi
  if [[ ! -f $SERVICES_FILE ]]; then
    cp "$ROOT/compose/services.example.yaml" "$SERVICES_FILE"
    say "  Services are in compose/services.yaml"
  fi
  need_known_settings
  # An earlier .env.example pinned this version, which cannot read the current configuration.
  if [[ $(setting TRAEFIK_IMAGE) == traefik:v3.7.9 ]]; then
    set_in_env "$ENV_FILE" TRAEFIK_IMAGE traefik:v3.7.15
    say "  TRAEFIK_IMAGE in .env was changed to traefik:v3.7.15"
  fi
  # The configuration of every edge needs this memory (docs/limits.md).
  if [[ $(setting EDGE_MEMORY) =~ ^(256|768)m$ ]]; then
    set_in_env "$ENV_FILE" EDGE_MEMORY 1g
    say "  EDGE_MEMORY in .env was changed to 1g"
    if [[ $(setting EDGE_GOMEMLIMIT) == 640MiB ]]; then
      set_in_env "$ENV_FILE" EDGE_GOMEMLIMIT 870MiB
      say "  EDGE_GOMEMLIMIT in .env was changed to 870MiB"
    fi
  fi
  if [[ $(setting AUTH_MEMORY) == 256m ]]; then
    set_in_env "$ENV_FILE" AUTH_MEMORY 640m
    say "  AUTH_MEMORY in .env was changed to 640m"
  fi
  # Uses the engine that DOCKER_HOST names, if it runs on this machine.
  if [[ ${DOCKER_HOST-} == unix://* ]]; then set_in_env "$ENV_FILE" DOCKER_SOCKET "${DOCKER_HOST#unix://}"; fi
  socket=$(setting DOCKER_SOCKET)
  if [[ -S $socket ]]; then set_in_env "$ENV_FILE" DOCKER_GID "$(stat -L -c %g "$socket")"; fi
  if [[ -n $PORT ]]; then
    set_in_env "$ENV_FILE" LISTEN "127.0.0.1:$PORT"
    set_in_env "$ENV_FILE" PUBLIC_URL "http://localhost:$PORT"
  fi
  if [[ -n $EDGE ]]; then
    [[ -f $ROOT/compose/edge-$EDGE.yaml ]] || die "There is no edge \"$EDGE\". Choose traefik, envoy, nginx or caddy."
    set_in_env "$ENV_FILE" COMPOSE_FILE "$(setting COMPOSE_FILE | sed -E "s#compose/edge-(traefik|envoy|nginx|caddy)\\.yaml#compose/edge-$EDGE.yaml#")"
  fi
}

# Docker detects address conflicts only among its own networks. If another program uses an address of the stack, or if
# a killed engine has left a network behind, the stack starts but cannot be reached.
need_free_subnet() {
  local subnet own interface address destination
  [[ -r /proc/net/route && ${DOCKER_HOST-} =~ ^(|unix://.*)$ ]] || return 0
  subnet=$(setting SUBNET)
  [[ ${subnet:=10.213} =~ ^([0-9]{1,3})\.([0-9]{1,3})$ ]] || die "SUBNET=$subnet in .env is not in the form of two numbers, such as 10.213."
  # The kernel prints the address with the last byte first.
  destination=$(printf '%02X%02X' "${BASH_REMATCH[2]}" "${BASH_REMATCH[1]}")
  own=$(docker network ls -q --filter "label=com.docker.compose.project=$(setting COMPOSE_PROJECT_NAME)")
  while read -r interface address _; do
    if [[ $address == ????"$destination" && $'\n'$own$'\n' != *$'\n'"${interface#br-}"$'\n'* ]]; then
      die "The network $interface of this machine has addresses in $subnet.0.0, which the stack needs. Choose other addresses for the stack with SUBNET in .env, or remove that network if it is not used."
    fi
  done </proc/net/route
}

# block_labels: prints the labels of the blocks that Compose reads, one in each line: block, name in lower case, value.
block_labels() {
  compose config 2>/dev/null | awk '
    /^[a-z]/ { services = ($0 == "services:"); next }
    !services { next }
    /^  [^ ]/ { block = $1; sub(/:$/, "", block); labels = 0; next }
    /^    [^ ]/ { labels = ($1 == "labels:"); next }
    labels && (colon = index($0, ": ")) {
      line = tolower(substr($0, 1, colon - 1)) " " substr($0, colon + 2)
      gsub(/["\047]/, "", line)
      sub(/^ */, "", line)
      print block, line
    }'
}

# Refuses labels that are unsafe or do not work. The check applies to every HTTP router, whatever the labels say. Only
# Traefik reads labels.
need_good_labels() {
  local labels past unlabelled
  [[ $(setting COMPOSE_FILE) == *edge-traefik.yaml* ]] || return 0
  compose config >/dev/null || die "Compose cannot read the stack. Its output above gives the reason."
  labels=$(block_labels)
  past=$(grep -E '^[^ ]+ traefik\.(tcp|udp)\.' <<<"$labels") || past=
  [[ -z $past ]] || die "Routers for TCP and UDP get whole connections, and with them requests without the check of auth-service. Remove these labels:"$'\n'"$past"
  unlabelled=$(awk '
    $2 == "traefik.enable" && tolower($3) !~ /^(false|f|0)$/ { enabled[$1] }
    $2 == "mcp-gate.stack" { ours[$1] }
    END { for (block in enabled) if (!(block in ours)) print block }' <<<"$labels" | sort | tr '\n' ' ')
  if [[ -z $(setting STACK_LABEL) ]]; then
    if [[ -n $unlabelled ]]; then
      say "  Traefik serves every container on this machine that has the name of this project. To restrict it to your own, add the label mcp-gate.stack: \"\${STACK_LABEL:-}\" to these blocks: $unlabelled"
    else
      set_in_env "$ENV_FILE" STACK_LABEL "$(head -c 18 /dev/urandom | base64 | tr '+/' '-_')"
    fi
  elif [[ -n $unlabelled ]]; then
    die "Traefik would not serve these blocks: ${unlabelled}Add the label mcp-gate.stack: \"\${STACK_LABEL:-}\" to each."
  fi
}

# Creates the account for the first start, unless an account already exists.
stack_account() {
  local list out
  list=$(compose exec -T auth-service /auth-service user list </dev/null) ||
    die "auth-service could not list the accounts. Its output is above."
  if [[ -n $list ]]; then
    ACCOUNT=$(cut -f 1 <<<"$list" | head -n 1)
    return
  fi
  out=$(compose exec -T auth-service /auth-service user add "$ACCOUNT" </dev/null) ||
    die "The account $ACCOUNT could not be created. The output of auth-service is above."
  PASSWORD=$(sed -n 's/^password: *//p' <<<"$out" | tr -d '\r')
  [[ -n $PASSWORD ]] || die "auth-service created the account $ACCOUNT but did not print its password."
}

# Prints the names of the services behind the edge that were started, one in each line.
stack_services() {
  docker ps --filter "label=com.docker.compose.project=$(setting COMPOSE_PROJECT_NAME)" \
    --format '{{.Label "com.docker.compose.service"}}' | grep -vxE 'setup|redis|auth-service|edge|docker-api' | sort -u || true
}

# Prints the URL at which clients find a service, which is also the resource of its tokens.
url_of() {
  docker inspect -f '{{range .Config.Env}}{{println .}}{{end}}' "$(container_of "$1")" | sed -n 's/^RESOURCE=//p'
}

stack_up() {
  local started=$SECONDS service first='' example answer='' host port path deadline
  trap 'stop_step; exit 130' INT TERM HUP
  say "mcp-gate starts in containers ($("${COMPOSE[@]}" version --short 2>/dev/null | head -n 1), $(docker version -f '{{.Server.Version}}'))."
  stack_files
  if [[ $LOCAL_IMAGES == yes ]]; then
    "$ROOT/scripts/base-images" || exit 1
  fi
  need_good_labels
  example="$(setting PUBLIC_URL)/NAME/mcp"
  step "Images (the first build takes some minutes)" compose build ||
    die "The images could not be built. If this machine cannot reach a container registry, use scripts/up --local-images."
  need_free_subnet
  step "Containers" compose up -d --remove-orphans ||
    die "The containers did not start. The end of Compose's output is above. If the port is in use, choose another one with scripts/up --port N."
  for service in auth-service edge $(stack_services); do
    wait_for_health "$service" 90 || die "$service is not healthy after 90 s. The end of its log is above."
  done
  # Chooses the service that is shown as an example and then tested: "everything" if it is running, otherwise any
  # other.
  for service in $(stack_services); do
    if [[ -z $first || $service == everything ]]; then first=$service; fi
  done
  # The stack is ready when a request through the edge gets a challenge.
  if [[ -n $first ]]; then example=$(url_of "$first"); fi
  if [[ $example =~ ^http://([a-z0-9.-]*localhost):([0-9]+)(/.*)$ ]]; then
    host=${BASH_REMATCH[1]} port=${BASH_REMATCH[2]} path=${BASH_REMATCH[3]}
    deadline=$((SECONDS + 30))
    while ((SECONDS < deadline)); do
      answer=$(http_head "$port" POST "$path" "$host:$port") || answer=
      [[ $answer == "HTTP/1.1 401"*resource_metadata=* ]] && break
      sleep 0.2
    done
    [[ $answer == "HTTP/1.1 401"* ]] ||
      die "The edge does not answer with a challenge at $example after 30 s. Its response: ${answer:-none}. See ${COMPOSE[*]} logs edge."
  fi
  stack_account

  cat <<END

Ready after $((SECONDS - started)) s.

END
  for service in $(stack_services); do printf '  %-12s %s\n' "$service" "$(url_of "$service")"; done
  if [[ -n $PASSWORD ]]; then
    cat <<END

  Account      $ACCOUNT
  Password     $PASSWORD   (for the first login; it then asks for one of your own)
END
  else
    cat <<END

  Account      $ACCOUNT (from an earlier start)
               A lost password: ${COMPOSE[*]} exec auth-service /auth-service user reset $ACCOUNT
END
  fi
  cat <<END

  Claude Code  claude mcp add --transport http ${first:-mcp-gate} $example
  Inspector    npx @modelcontextprotocol/inspector@latest --transport http --server-url $example
  Others       paste the URL; the client opens a browser to log in

  Add a server scripts/add-service thinking -- npx -y @modelcontextprotocol/server-sequential-thinking
  Stop         scripts/down (keeps accounts and tokens)
  On a network run scripts/fence as root to limit the connections of one address
END
}

# Files are copied into and out of the stack through a volume that belongs to the user of its containers, because no
# container of the stack runs as root, and none can write anywhere else.
in_setup() { docker run --rm -i --network none --user 65532:65532 --cap-drop ALL --entrypoint sh "$@"; }

SCRATCH=''
make_scratch() {
  local project
  project=$(setting COMPOSE_PROJECT_NAME)
  SCRATCH=${project}_scratch-$$ SETUP_IMAGE=${project}-setup AUTH_CONFIG=${project}_auth-config
  docker volume create "$SCRATCH" >/dev/null
  # The volume gets the owner of the directory in the image.
  in_setup -v "$SCRATCH:/volumes/certificates" "$SETUP_IMAGE" -c : </dev/null ||
    die "There is no image $SETUP_IMAGE. Run scripts/up first."
}
remove_scratch() { [[ -z $SCRATCH ]] || docker volume rm -f "$SCRATCH" >/dev/null; }

# stack_store ARGUMENT…: runs a command of "auth-service store" with the stack's settings, and with files in /scratch.
stack_store() { compose run --rm --no-deps -T -v "$SCRATCH:/scratch" auth-service store "$@" </dev/null; }

# stack_backup FILE KEY_FILE
stack_backup() {
  need_stack
  trap 'remove_scratch' EXIT
  make_scratch
  stack_store export /scratch/dump || die "The backup failed. The output of auth-service is above."
  stack_store verify /scratch/dump >/dev/null || die "The dump was written but cannot be read back. The output of auth-service is above."
  (umask 077 && set -C && in_setup -v "$SCRATCH:/scratch:ro" "$SETUP_IMAGE" -c 'cat /scratch/dump' </dev/null >"$1") ||
    die "$1 cannot be written."
  if [[ -n $2 ]]; then
    (umask 077 && set -C && in_setup -v "$AUTH_CONFIG:/auth:ro" "$SETUP_IMAGE" -c 'cat /auth/store-key' </dev/null >"$2") ||
      die "$2 cannot be written. If the file already exists, it might be the only key for other dumps."
  fi
}

# stack_restore DUMP KEY_FILE OPTION…
stack_restore() {
  local dump=$1 key=$2 options=("${@:3}")
  need_stack
  trap 'remove_scratch' EXIT
  make_scratch
  in_setup -v "$SCRATCH:/scratch" "$SETUP_IMAGE" -c 'cat >/scratch/dump' <"$dump"
  if [[ -n $key ]]; then
    in_setup -v "$SCRATCH:/scratch" "$SETUP_IMAGE" -c 'umask 077 && cat >/scratch/key' <"$key"
    options+=(--key-file /scratch/key)
  fi
  compose stop auth-service
  if ! stack_store import ${options[@]+"${options[@]}"} /scratch/dump; then
    compose start auth-service
    die "The restore failed. The output of auth-service is above."
  fi
  compose start auth-service
  wait_for_health auth-service 60 || die "auth-service is not healthy. The end of its log is above."
}
