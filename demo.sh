#!/bin/sh
# A rollback on a real checkpoint: release 0.19.0 wrote it, 0.17 has to load it, and the way back.
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cp -R tests/samples/0.19.0-idle-tp2 "$place/run"
cd "$place"

show() {
    printf '\n$ %s\n' "$*"
    "$@"
}

# Exit status 1 is an answer: the release cannot resume.
show ckptmigrate check run --reader 0.17 || true
show ckptmigrate downgrade run --to 0.17 --link copy -o run-for-0.17
show ckptmigrate check run-for-0.17 --reader 0.17
show ckptmigrate upgrade run-for-0.17 --to 0.19 --link copy -o back
show diff -r run back
printf '\nrun and back are equal, byte for byte.\n'
