#!/bin/sh
# Does what plan.sh found, and nothing else. It may run on another worker than the plan did.
set -eu

while read -r what name; do
  echo "$what $name"
  case $what in
    put) cp "pages/$name" "$TARGET/$name" ;;
    remove) rm "$TARGET/$name" ;;
  esac
done <to-do

cat >"$GANTRY_OUTPUTS_FILE" <<OUTPUTS
{
  "pages": { "value": $(ls pages | wc -l) },
  "published_in": { "value": "$TARGET" },
  "ticket": { "value": "$(date +%s)-$GANTRY_RUN_ID", "sensitive": true }
}
OUTPUTS
