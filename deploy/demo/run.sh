#!/bin/bash
# A small site with one program for each fate, in namespaces of its own, and the guard that deals with it: half a minute.
#   run.sh           watch it
#   run.sh --check   the same, and exit 1 unless every program met the fate that was staged for it
# BINDIR=DIR takes the binaries from there; PATIENCE=SECONDS is what a fate may be late by. Nothing outlives it: processes and table end with their namespaces.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
bindir=${BINDIR:-$here/../../bin}

give_up() {
  echo "demo: $1" >&2
  exit 1
}

##  Outside: what it takes, and the namespaces

outside() {
  case "$#:${1:-}" in
  0: | 1:--check) ;;
  *)
    echo "usage: $0 [--check]" >&2
    exit 64
    ;;
  esac
  command -v cc >/dev/null || give_up "no C compiler to build its programs with: apt-get install gcc libc6-dev"
  for program in checkprocd checkprocctl; do
    [ -x "$bindir/$program" ] || give_up "$bindir/$program is not there: make build"
  done
  local namespaces=(--ipc --pid --mount --fork --kill-child --mount-proc)
  if [ "$(id -u)" != 0 ]; then namespaces+=(--user --map-root-user); fi
  local refused
  refused=$(unshare "${namespaces[@]}" true 2>&1) || give_up "it needs root, or user namespaces: $refused"

  dir=$(mktemp -d "${TMPDIR:-/tmp}/checkprocd-demo.XXXXXX")
  trap 'rm -rf "$dir"' EXIT
  cc -std=gnu11 -O2 -pthread -o "$dir/client" "$here/../../pkg/table/testdata/client.c"
  # Not in the foreground: a shell takes its signals only once that has ended.
  DEMO_DIR=$dir unshare "${namespaces[@]}" "$0" "$@" &
  trap "{ kill -KILL $!; wait $!; } 2>/dev/null; exit 130" INT TERM HUP # and with it goes pid 1 of the namespaces
  wait $!
}

##  Inside: pid 1 of the namespaces, whose end is the end of all

legend() {
  cat <<'END'
Eight programs register in a table of their own. They are staged to

  healthy    beat as it should                            and is left alone
  hung       stop beating                                 and is ended with SIGTERM
  stubborn   stop beating and ignore SIGTERM              and is ended with SIGKILL
  tidy       wipe its record at SIGTERM, then hang        and is ended with SIGKILL
  dying      crash                                        and has its record cleared
  forged     be a record that names somebody else         and nobody is signalled for it
  stopped    get SIGSTOP, and SIGCONT later               and is held meanwhile
  loser      lose its record to a forked child's exit     and is reported

END
}

# client NAME ARGS… starts one; the shell forgets it, so that it does not comment on its end.
client() {
  "$dir/client" --name "$@" >/dev/null &
  pid=$!
  disown
}

ctl() { "$bindir/checkprocctl" --socket "$dir/io.checkproc" "$@"; }

# told EVENT TEXT: such a line is in the log. The name of a program is the part in parentheses.
told() { grep -qE " $1 .*$2" "$dir/log"; }

fates() {
  fate hung told killed '\(hung\) .*after SIGTERM' &&
    fate stubborn told killed '\(stubborn\) .*after SIGKILL' &&
    fate tidy told killed '\(tidy\) .*after SIGKILL' &&
    fate dying told exited '\(dying\)' && fate dying told cleared '\(dying\)' &&
    fate forged told refused "pid $bystander" && fate forged test -e "/proc/$bystander" &&
    fate stopped told held '\(stopped\)' && fate stopped told '(recovered|released)' '\(stopped\)' &&
    fate loser told unguarded '\(loser\)' &&
    fate healthy told registered '\(healthy\)' && fate healthy listed healthy guarded && fate healthy never late '\(healthy\)' &&
    fate stopped listed stopped guarded &&
    fate "nobody else" never signalled '\((healthy|dying|forged|stopped|loser)\)'
}

# fate NAME COMMAND…: the command says whether the fate came true; missing is whose did not.
fate() {
  missing="$1: ${*:2}"
  "${@:2}"
}

listed() { ctl list 2>/dev/null | grep -qE " $1 +$2 "; }
never() { ! told "$@"; }

inside() {
  dir=$DEMO_DIR
  export RUNTIME_DIRECTORY=$dir
  legend

  : >"$dir/defaults.toml" # not the configuration of this host
  "$bindir/checkprocd" --config "$dir/defaults.toml" --log-format console --log-file "$dir/log" &
  guard=$!
  until [ -S "$dir/io.checkproc" ]; do
    kill -0 $guard 2>/dev/null || give_up "the guard did not start"
    sleep 0.1
  done
  sleep 1

  client healthy --timeout 5 --beat 500
  client hung --timeout 3 --beat 500 --beats 8 --term-exit
  client stubborn --timeout 2 --beat 500 --beats 7 --ignore-term
  client tidy --timeout 4 --beat 500 --beats 16 --term-wipe-hang
  client dying --timeout 5 --beat 500
  dying=$pid
  client stopped --timeout 2 --beat 500
  stopped=$pid
  client loser --timeout 5 --beat 500 --fork-after-register 1 --child-life 15000
  sleep infinity &
  bystander=$!
  disown
  client forged --timeout 3 --forge $bystander
  sleep 4
  kill -SEGV $dying
  sleep 2
  kill -STOP $stopped
  sleep 14
  kill -CONT $stopped
  sleep 3

  local came_true=yes late=$((SECONDS + ${PATIENCE:-60}))
  until fates; do
    kill -0 $guard 2>/dev/null || give_up "the guard ended"
    if [ $SECONDS -ge $late ]; then
      came_true=no
      break
    fi
    sleep 0.1
  done

  printf '\n$ checkprocctl list\n'
  ctl list
  printf '\n$ checkprocctl check\n'
  ctl check || true
  echo
  kill $guard
  wait $guard || give_up "the guard ended with $?"
  if [ "${1:-}" = --check ]; then
    if [ $came_true = no ]; then give_up "not as staged: $missing"; fi
    echo "demo: every fate came true"
  fi
}

if [ -n "${DEMO_DIR:-}" ]; then inside "$@"; else outside "$@"; fi
