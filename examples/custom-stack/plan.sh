#!/bin/sh
# Compares the pages of the source with those that are published, and keeps what is to be done for apply.sh.
set -eu

add=0 change=0 delete=0
: >to-do
for page in pages/*; do
  name=${page#pages/}
  if [ ! -e "$TARGET/$name" ]; then
    echo "+ $name"
    add=$((add + 1))
  elif ! cmp -s "$page" "$TARGET/$name"; then
    echo "~ $name"
    change=$((change + 1))
  else
    continue
  fi
  echo "put $name" >>to-do
done
for page in "$TARGET"/*.html; do
  name=${page##*/}
  if [ -e "$page" ] && [ ! -e "pages/$name" ]; then
    echo "- $name"
    echo "remove $name" >>to-do
    delete=$((delete + 1))
  fi
done
echo "{\"add\":$add,\"change\":$change,\"delete\":$delete}" >"$GANTRY_PLAN_FILE"
