# Reads a recipe as a container engine's --env-file does: for `make`, and, as a copy, deploy/slurm/bowsprit.sbatch.

# Exports each NAME=VALUE line of the recipe "$1" whose variable is not set already. Fails where a line is neither
# that nor a comment nor blank, or a name is there twice; values are not shown, since they may be secrets.
read_recipe() {
  wrong=$(LC_ALL=C grep -nvE '^[[:space:]]*(#.*|[A-Za-z_][A-Za-z0-9_]*=.*)?$' "$1" | head -n 1 | cut -d : -f 1)
  if [ -n "$wrong" ]; then
    echo "$1:$wrong: expected NAME=VALUE, a comment or a blank line; correct it: no 'export', no blank before '='" >&2
    return 2
  fi
  wrong=$(sed -n 's/^[[:space:]]*\([A-Za-z_][A-Za-z0-9_]*\)=.*/\1/p' "$1" | sort | uniq -d | head -n 1)
  if [ -n "$wrong" ]; then
    echo "$1: expected each variable once, found $wrong in several lines; remove all but one" >&2
    return 2
  fi
  while IFS= read -r line || [ -n "$line" ]; do
    line=${line#"${line%%[![:space:]]*}"}
    case $line in [A-Za-z_]*) printenv "${line%%=*}" >/dev/null || export "$line" ;; esac
  done <"$1"
}
