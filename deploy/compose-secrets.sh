#!/bin/sh
# Makes the passwords that compose.yaml reads from deploy/secrets, and changes none that is there.
# The folder is this user's alone; the files are readable, because containers run as other users. So are then those of
# locked.yaml that are there: run this again after putting them there.
set -eu
folder=$(dirname "$0")/secrets
mkdir -p "$folder"
chmod 700 "$folder"
for name in database grafana; do
    [ -s "$folder/$name" ] || od -An -N24 -tx1 /dev/urandom | tr -d ' \n' > "$folder/$name"
done
for name in database grafana server.crt server.key tokens; do
    [ ! -e "$folder/$name" ] || chmod 644 "$folder/$name"
done
echo "the passwords are in $folder"
