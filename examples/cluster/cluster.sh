#!/usr/bin/env bash
# Three servers and one node on this machine, each with a directory and ports of its own.
#
#   cluster.sh up          make what is not there, start what does not run
#   cluster.sh down        stop all in order; the data stays
#   cluster.sh kill N      kill server N, as a crash would
#   cluster.sh start N     start it again
#   cluster.sh COMMAND...  weir COMMAND, at whichever server answers
#
# WEIR: the binary (weir). DIR: where everything is (./weir-cluster). PORTS: server N has PORTS + N * 100 + 70, 71, 72
# (7000). HTTP, HTTPS: where the workers listen (8080, 8443).
set -euo pipefail

weir=${WEIR:-weir}
dir=${DIR:-weir-cluster}
ports=${PORTS:-7000}
http=${HTTP:-8080}
https=${HTTPS:-8443}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)

port() { echo "127.0.0.1:$((ports + $1 * 100 + $2))"; }
place() { echo "--admin $(port "$1" 70) --metrics $(port "$1" 71) --peers $(port "$1" 72)"; }
runs() { [ -f "$dir/$1.pid" ] && kill -0 "$(cat "$dir/$1.pid")" 2>/dev/null; }

# Waits for a command to succeed, half a minute at most.
until_ok() {
    for _ in $(seq 300); do
        "$@" >/dev/null 2>&1 && return 0
        sleep 0.1
    done
    echo "not in 30 s: $*; see the logs in $dir" >&2
    return 1
}

# The platform administrator's command line; the first server's directory has its token.
admin() {
    WEIR_ADMIN="$(port 1 70),$(port 2 70),$(port 3 70)" WEIR_DATA="$dir/s1" "$weir" "$@"
}

start() { # name, arguments
    runs "$1" && return 0
    "$weir" "${@:2}" >>"$dir/$1.log" 2>&1 </dev/null &
    echo $! >"$dir/$1.pid"
}

stop() { # name
    runs "$1" || return 0
    kill "$(cat "$dir/$1.pid")"
    for _ in $(seq 450); do
        runs "$1" || break
        sleep 0.1
    done
    rm -f "$dir/$1.pid"
}

up() {
    if [ ! -f "$dir/s1/server.json" ]; then
        # shellcheck disable=SC2046
        "$weir" cluster init --data "$dir/s1" $(place 1) --http "127.0.0.1:$http" --https "127.0.0.1:$https"
    fi
    start s1 server --data "$dir/s1"
    for server in 2 3; do
        if [ ! -f "$dir/s$server/server.json" ]; then
            until_ok admin cluster status
            token=$(admin cluster token create --role server)
            # shellcheck disable=SC2046
            WEIR_JOIN_TOKEN=$token "$weir" cluster join --server "$(port 1 70)" --data "$dir/s$server" $(place $server)
        fi
        start "s$server" server --data "$dir/s$server"
    done
    until_ok admin cluster status
    if [ ! -f "$dir/n1/node.json" ]; then
        token=$(admin cluster token create --role node)
        WEIR_JOIN_TOKEN=$token "$weir" node join --server "$(port 1 70)" --data "$dir/n1" --name n1
    fi
    start n1 node --data "$dir/n1"
    until_ok eval "admin workers | grep -q ready"
    admin cluster status
}

down() {
    stop n1
    for server in 1 2 3; do stop "s$server"; done
}

case ${1:-} in
up) up ;;
down) down ;;
kill) kill -9 "$(cat "$dir/s$2.pid")" && rm "$dir/s$2.pid" ;;
start) start "s$2" server --data "$dir/s$2" ;;
"") sed -n '2,11s/^# \{0,1\}//p' "$0" && exit 2 ;;
*) admin "$@" ;;
esac
