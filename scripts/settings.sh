# shellcheck shell=bash
# Finds misspelt settings of the stack. Compose and the containers ignore a variable that they do not know, so a
# misspelt restriction would not be in force. This file is sourced, not run.
# shellcheck disable=SC2154

# Prints the names in .env that are used: by the files of the stack, by .env.example, and by the scripts.
used_settings() {
  local of_stack=() file
  IFS=: read -ra of_stack <<<"$(setting COMPOSE_FILE)"
  for file in "$ROOT"/compose/*.yaml ${of_stack[@]+"${of_stack[@]}"}; do
    [[ $file == /* ]] || file=$ROOT/$file
    [[ ! -f $file ]] || grep -oE '\$\{?[A-Za-z_][A-Za-z0-9_]*' "$file" | tr -d '{$' || true
  done
  grep -oE '^#?[A-Z][A-Z0-9_]*=' "$ROOT/.env.example" | tr -d '#='
  grep -dskip -ohE 'setting [A-Z][A-Z0-9_]*' "$ROOT"/scripts/* | cut -d ' ' -f 2
}

# alike MISTAKES NAME…: reads names, and compares each with the given ones. For each given name, prints a line with it
# and the names with the smallest distance from it, if this is at most MISTAKES. The distance is the number of letters
# that are missing, wrong or too many. Upper and lower case count as equal.
alike() {
  awk -v most="$1" -v given="${*:2}" '
    function min(a, b) { return a < b ? a : b }
    function distance(a, b,    i, j, row, before, above) {
      for (j = 0; j <= length(b); j++) row[j] = j
      for (i = 1; i <= length(a); i++) {
        before = row[0]
        row[0] = i
        for (j = 1; j <= length(b); j++) {
          above = row[j]
          row[j] = min(min(row[j] + 1, row[j - 1] + 1), before + (substr(a, i, 1) != substr(b, j, 1)))
          before = above
        }
      }
      return row[length(b)]
    }
    BEGIN {
      most += 0
      count = split(given, names, " ")
      for (i = 1; i <= count; i++) smallest[i] = most
    }
    !($0 in seen) {
      seen[$0]
      for (n = 1; n <= count; n++) {
        # The distance is at least the difference of the lengths.
        longer = length(names[n]) - length($0)
        if (longer > smallest[n] || -longer > smallest[n]) continue
        far = distance(toupper(names[n]), toupper($0))
        if (far < smallest[n]) { smallest[n] = far; found[n] = "" }
        if (far == smallest[n]) found[n] = found[n] (found[n] == "" ? "" : " or ") $0
      }
    }
    END { for (n = 1; n <= count; n++) if (found[n] != "") print names[n], found[n] }'
}

# with_same_first_word NAME: reads names, and prints those that begin with the same word as NAME.
with_same_first_word() {
  local names
  names=$(grep -E "^${1%%_*}_" | sort -u | head -n 6) || return 0
  printf '%s\n' "${names//$'\n'/ or }"
}

# Prints one line about a name in .env that nothing uses: why it is not used, and what was probably meant.
about_unused() {
  local name=$1 used=$2 meant plain=${1%_FILE} here from
  local wrapper=$ROOT/stdio-wrapper/src/config/options.rs
  # The edit distance of a short name to some other name is always small.
  meant=$(alike "$((${#name} < 6 ? 1 : ${#name} < 9 ? 2 : 3))" "$name" <<<"$used")
  meant=${meant#"$name "}
  here=$(grep -E "^      ($plain|${plain}_FILE): " "$ROOT/compose/stack.yaml" | grep -vF "\${$plain:") || here=
  if [[ -n $here ]]; then
    from=$(grep -oE '\$\{[A-Z_]*' <<<"$here" | tr -d '{$' | sort -u | tr '\n' ' ') || from=
    say "  $name: the stack sets this itself${from:+, from ${from% }}. Remove it from here."
  elif [[ $name == *_FILE ]] && grep -qxF "$plain" <<<"$used"; then
    say "  $name: the container cannot read files of this machine. Set $plain instead."
  elif [[ -z $meant && -f $wrapper ]] && grep -qF "env = \"$name\"" "$wrapper"; then
    say "  $name: this is a setting of stdio-wrapper. Write it into the block of the service in compose/services.yaml."
  else
    [[ -n $meant ]] || meant=$(with_same_first_word "$name" <<<"$used")
    say "  $name: there is no such setting.${meant:+ Did you mean $meant?}"
  fi
}

# Refuses settings in .env that nothing uses, and variables in the environment of this script that look like settings.
# Compose reads both.
need_known_settings() {
  local used name unused='' about written line=0
  used=$(used_settings | sort -u)
  while IFS= read -r written || [[ -n $written ]]; do
    line=$((line + 1))
    written=${written#"${written%%[![:space:]]*}"}
    [[ -n $written && $written != \#* ]] || continue
    written=${written#export }
    if [[ ! $written =~ ^([A-Za-z_][A-Za-z0-9_.-]*)[[:space:]]*[=:] ]]; then
      die ".env, line $line: \"${written%%[[:space:]]*}\" is not a setting. Write NAME=value, or begin the line with #."
    fi
    name=${BASH_REMATCH[1]}
    grep -qxF "$name" <<<"$used" && continue
    # Compose itself has more settings than the stack uses.
    if [[ $name =~ ^(COMPOSE|DOCKER)_ && -z $(alike 2 "$name" <<<"$used") ]]; then continue; fi
    unused+=$'\n'$(about_unused "$name" "$used")
  done <"$ENV_FILE"
  [[ -z $unused ]] || die ".env has settings that nothing uses. Correct or remove them, or name them in compose/services.yaml as \${NAME}:$unused"
  # The name of another program's variable is similar by chance only if it is short.
  while read -r name; do
    about=$(about_unused "$name" "$used")
    # A setting that exists, but not for the stack, could be meant for another program.
    [[ $about != *"no such setting"* ]] || unused+=$'\n'$about
  done < <({
    # shellcheck disable=SC2046 # names contain no spaces
    alike 2 $(compgen -e | grep -E '^.{8}') <<<"$used" | cut -d ' ' -f 1
    compgen -e | grep -E '^(ALLOWED|CLIENT_METADATA|DPOP|POLICY|PROTECTED|REGISTRATION|TRUSTED)(_|$)'
  } | sort -u | grep -vxF "$used")
  [[ -z $unused ]] || die "The environment has variables that look like settings and are none. Correct or unset them:$unused"
}
