#!/bin/sh
# The main job on a real checkpoint: what release 0.19.0 wrote, made readable by 0.17, and back.
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cp -R tests/samples/0.19.0-idle-tp2 "$place/run"
cd "$place"

show() {
    printf '\n$ %s\n' "$*"
    "$@"
}

show ckptmigrate inspect run
show ckptmigrate downgrade run --to none-emitting
# diff(1) has the same habit: status 1 says that there are differences.
show ckptmigrate diff run run.none-emitting || true
show ckptmigrate upgrade run.none-emitting --to common-state -o back
show diff -r run back
printf '\nrun and back are equal, byte for byte.\n'
printf 'Next: . .venv/bin/activate, and docs/recipes.md has the errors that it helps with.\n'
