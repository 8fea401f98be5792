#!/bin/sh
# Stands in for ssh: `ssh.sh FOLDER HOST COMMAND` runs the command here, with a home of the host's own.
folder=$1 host=$2
case $host in *unreachable*) echo "ssh: connect to host $host port 22: No route to host" >&2; exit 255 ;; esac
mkdir -p "$folder/$host"
HOME="$folder/$host" exec sh -c "$3"
