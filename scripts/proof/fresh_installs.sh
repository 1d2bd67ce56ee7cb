#!/usr/bin/env bash
# Install each distribution from its wheel into a new, empty environment, and check that it works alone.
#
#   scripts/proof/fresh_installs.sh                      # all: about 10 s of a processor each; JOBS=4: four at a time
#   scripts/proof/fresh_installs.sh pealm-gpt2 pealm-pea # some
#   WHEELS=dist scripts/proof/fresh_installs.sh          # wheels that scripts/release has built
#   RESOLUTION=lowest-direct scripts/proof/fresh_installs.sh   # the oldest dependencies that the metadata allows
#
# Wheels are built from this checkout. Dependencies on each other come from these wheels, all others from the index, at
# the newest versions, except torch, which is the version and build that .venv has (if it comes from a folder, name that
# in UV_FIND_LINKS); uv links files from its cache.
# Checked in each environment: our distributions in it are exactly those that the metadata requires; requirements are
# met; every plugin loads; the distribution does its job (jobs.sh). tests/examples/test_alone.py is a quick version of this.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
root=$PWD
python=${PYTHON:-$root/.venv/bin/python}
home=$(mktemp -d -t fresh-installs.XXXXXX)
trap 'rm -rf "$home"' EXIT
export PEALM_CACHE=$home/cache HF_HUB_OFFLINE=1 # the jobs use local files
wheels=${WHEELS:+$(realpath "$WHEELS")}

if [[ -z $wheels ]]; then
    wheels=$home/wheels
    PYTHON=$python scripts/release --draft "$wheels" >"$home/build.log" || { cat "$home/build.log"; exit 1; }
fi
"$python" -m venv "$home/tools"
"$home/tools/bin/python" -m pip install --quiet --disable-pip-version-check uv 2>"$home/uv.log" ||
    { cat "$home/uv.log"; exit 1; }

# One line for each distribution: its name, then all of ours that it requires, directly or indirectly.
"$python" - "$wheels" >"$home/closures" <<'PYTHON'
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

from packaging.requirements import Requirement

needs = {}
for wheel in sorted(Path(sys.argv[1]).glob("*.whl")):
    with zipfile.ZipFile(wheel) as archive:
        about = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        head = Parser().parsestr(archive.read(about).decode())
    parsed = [Requirement(line) for line in head.get_all("Requires-Dist", [])]
    needs[head["Name"]] = {r.name for r in parsed if r.marker is None or r.marker.evaluate({"extra": ""})}
for name in needs:
    closure, todo = set(), [name]
    while todo:
        one = todo.pop()
        if one in needs and one not in closure:
            closure.add(one)
            todo += needs[one]
    print(name, *sorted(closure))
PYTHON

# Constrain our names to these wheels, because an index may have other projects under the same names.
for wheel in "$wheels"/*.whl; do
    name=${wheel##*/}
    name=${name%%-*}
    printf '%s @ file://%s\n' "${name//_/-}" "$wheel"
done >"$home/constraints.txt"
"$python" -c 'import importlib.metadata as m; print("torch==" + m.version("torch"))' >>"$home/constraints.txt"

check() { # check NAME CLOSURE...
    set -euo pipefail
    local place=$home/$1 ours
    export VIRTUAL_ENV=$place/env UV_LINK_MODE=hardlink
    export PATH=$VIRTUAL_ENV/bin:$PATH
    mkdir -p "$place/job" && cd "$place"
    uv() { "$home/tools/bin/uv" "$@"; }
    uv venv --quiet --python "$python" env
    uv pip install -c "$home/constraints.txt" --resolution "${RESOLUTION:-highest}" "$1"
    uv pip check
    uv pip freeze | tee freeze
    ours=$(sed -n 's/^\(pealm[a-z0-9-]*\) .*/\1/p' freeze | sort | xargs)
    if [[ $ours != "$(printf '%s\n' "${@:2}" | sort | xargs)" ]]; then
        echo "installed of ours: $ours; required: ${*:2}"
        return 1
    fi
    cd job
    if [[ $1 != pealm-pea ]]; then
        python -m pealm plugins --json | python -c '
import json, sys
assert all(row["status"] == "ok" for row in json.load(sys.stdin))'
    fi
    # shellcheck source=scripts/proof/jobs.sh
    source "$root/scripts/proof/jobs.sh"
    export PEALM_PLUGINS=$root/scripts/proof/alone.py
    job "$1"
}

one() { # one NAME CLOSURE...: a line that says how it went
    # A shell of its own, because bash ignores `set -e` in a function called as a condition.
    if bash -c 'check "$@"' check "$@" >"$home/$1.log" 2>&1 </dev/null; then
        printf '%s\n' "ok      $1: $(($# - 1)) of ours, $(wc -l <"$home/$1/freeze") distributions in all"
        rm -rf "${home:?}/$1"
    else
        printf '%s\n' "FAILED  $1:" "$(tail -n 15 "$home/$1.log")"
        rm -rf "${home:?}/$1"
        return 1
    fi
}
export -f check one
export home python root

while read -r name closure; do
    if (($# == 0)) || [[ " $* " == *" $name "* ]]; then printf '%s %s\n' "$name" "$closure"; fi
done <"$home/closures" | xargs -P "${JOBS:-1}" -L 1 bash -c 'one "$@"' one
