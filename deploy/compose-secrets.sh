#!/bin/sh
# Makes the passwords that compose.yaml reads from deploy/secrets, and changes none that is there.
# The folder is this user's alone; the files are readable, because containers run as other users.
set -eu
folder=$(dirname "$0")/secrets
mkdir -p "$folder"
chmod 700 "$folder"
for name in database grafana; do
    [ -s "$folder/$name" ] || od -An -N24 -tx1 /dev/urandom | tr -d ' \n' > "$folder/$name"
    chmod 644 "$folder/$name"
done
echo "the passwords are in $folder"
