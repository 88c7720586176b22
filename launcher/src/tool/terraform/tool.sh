# Runs Terraform or OpenTofu for a phase, in the shell that the phase's hooks share.
#
# What is set before it: gantry_keeps (the state is ours: yes or nothing). What it gives up with is
# named by number, and the sentences stand in command.rs. Nothing here relies on what hooks may have
# set: options of the shell, functions named like programs, the present directory.

gantry_override=zzzzzzzz_gantry_backend_override.tf

# What the image has; else what the host offers.
gantry_find() {
  gantry_tool=
  for gantry_name in terraform tofu; do
    gantry_path=$(command -v "$gantry_name") || continue
    case $gantry_path in
      /opt/gantry/tool/*) gantry_tool=${gantry_tool:-$gantry_path} ;;
      *) gantry_tool=$gantry_name; break ;;
    esac
  done
  [ -n "$gantry_tool" ] || gantry_refuse 0
}

# Whether the tool finds any configuration here beside ours.
gantry_source() (
  set +f
  for gantry_file in *.tf *.tf.json *.tofu *.tofu.json; do
    case $gantry_tool:$gantry_file in
      *:.* | *:"$gantry_override" | *terraform:*.tofu | *terraform:*.tofu.json) continue ;;
    esac
    [ -d "$gantry_file" ] && continue
    if [ -e "$gantry_file" ] || [ -L "$gantry_file" ]; then exit 0; fi
  done
  exit 1
)

# Our backend makes a configuration of a directory that has none, and a configuration without resources
# means: destroy all. So it stands beside the user's only, or where all is to be destroyed.
gantry_backend() {
  [ -n "$gantry_keeps" ] || return 0
  command rm -rf "$gantry_override"
  if [ "$1" = always ] || gantry_source; then
    printf 'terraform {\n  backend "http" {}\n}\n' >|"$gantry_override"
  fi
}

# Whether init took our backend, where it had one to take.
gantry_is_ours() {
  [ -n "$gantry_keeps" ] && [ -e "$gantry_override" ] || return 0
  [ -f "${TF_DATA_DIR:-.terraform}/terraform.tfstate" ] || return 1
  while IFS= read -r gantry_line; do
    case $gantry_line in *'"type": "http"'*) return 0 ;; esac
  done <"${TF_DATA_DIR:-.terraform}/terraform.tfstate"
  return 1
}

# Whether init took a backend that outlives this container. Without one the state lies in the workspace,
# which is removed: so does what a local backend with a relative path keeps.
gantry_has_own() {
  [ -z "$gantry_keeps" ] && gantry_source || return 0
  gantry_kind= gantry_where=
  [ -s "${TF_DATA_DIR:-.terraform}/terraform.tfstate" ] || return 1
  while IFS= read -r gantry_line; do
    case $gantry_line in
      *'"type": "local"'*) gantry_kind=${gantry_kind:-local} ;;
      *'"type": '*) gantry_kind=${gantry_kind:-other} ;;
      *'"path": "/mnt/workspace/'*) ;;
      *'"path": "/'*) gantry_where=outside ;;
    esac
  done <"${TF_DATA_DIR:-.terraform}/terraform.tfstate"
  case $gantry_kind:$gantry_where in other:* | local:outside) return 0 ;; *) return 1 ;; esac
}

# $1: always, for a run that destroys; $2: doubt, where a file seems to declare a backend and nobody but
# the tool can read it.
gantry_init() {
  gantry_find
  if [ "$2" = doubt ]; then
    command rm -rf "$gantry_override"
    (unset TF_CLI_ARGS TF_CLI_ARGS_init && "$gantry_tool" init -input=false -backend=false) || return
    gantry_refuse 2
  fi
  gantry_backend "$1"
  "$gantry_tool" init -input=false -reconfigure || return
  gantry_is_ours || gantry_refuse 3
  gantry_has_own || gantry_refuse 4
}

# $1: as for init; what follows goes to the tool. 2 says that there is something to apply.
gantry_plan() {
  gantry_find
  gantry_backend "$1"
  shift
  command rm -rf gantry.tfplan
  gantry_status=0
  "$gantry_tool" plan -input=false -detailed-exitcode -out=gantry.tfplan "$@" || gantry_status=$?
  case $gantry_status in
    0 | 2) [ -f gantry.tfplan ] || gantry_refuse 1 ;;
  esac
  return "$gantry_status"
}

# Whether all that init brought is here: what lay outside of the workspace was another container's.
gantry_is_whole() (
  set +f
  [ -d "${TF_DATA_DIR:-.terraform}" ] || exit 1
  for gantry_file in "${TF_DATA_DIR:-.terraform}"/providers/*/*/*/*/*; do
    if [ -L "$gantry_file" ] && [ ! -e "$gantry_file" ]; then exit 1; fi
  done
)

gantry_initialized() {
  gantry_is_whole && return
  [ -z "${TF_PLUGIN_CACHE_DIR-}" ] || command mkdir -p "$TF_PLUGIN_CACHE_DIR" || return
  "$gantry_tool" init -input=false -reconfigure
}

gantry_apply() {
  gantry_find
  gantry_initialized && "$gantry_tool" apply -input=false -auto-approve gantry.tfplan
}

gantry_destroy() {
  gantry_find
  gantry_backend always
  gantry_initialized && "$gantry_tool" destroy -input=false -auto-approve
}

# Our own questions, which no options of the user's for the tool's commands may change.
gantry_show() {
  unset TF_CLI_ARGS TF_CLI_ARGS_show TF_CLI_ARGS_output
  gantry_find
  "$gantry_tool" "$@"
}
