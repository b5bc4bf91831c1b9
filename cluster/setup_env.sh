#!/bin/sh
# Makes .venv when it is missing or incomplete. Looks for a C++ compiler and Python 3.11 before anything is written;
# PYTHON and CXX name others. cluster/setup_env.py does the rest.
set -u
root=$(cd "${0%/*}/.." && pwd) || exit 2
setup="$root/cluster/setup_env.py"

fail() {
    echo "setup: $*" >&2
    exit 2
}

compiler() {
    if [ -n "${CXX:-}" ]; then
        command -v "${CXX%% *}" # the words after the first are its options
    else
        command -v c++ || command -v g++
    fi >/dev/null 2>&1
}

# Whether $1 runs (a shim on PATH may not) and is Python 3.11.
is_python_311() {
    "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' >/dev/null 2>&1
}

compiler || fail "no C++ compiler found (looked for ${CXX:-c++ and g++}), and DeepSpeed builds an operator with one:" \
    "install it (Debian, Ubuntu: apt-get install g++) or name yours with CXX=/path/to/compiler"

if [ -n "${PYTHON:-}" ]; then
    is_python_311 "$PYTHON" || fail "PYTHON=$PYTHON is not a working Python 3.11, which the pinned builds need:" \
        "name one with PYTHON=/path/to/python3.11"
fi

"$root/.venv/bin/python" -B "$setup" --check 2>/dev/null && exit 0

for candidate in "${PYTHON:-python3.11}" python3 python; do
    if is_python_311 "$candidate"; then
        exec "$candidate" -B "$setup"
    fi
done
fail "no Python 3.11 found (looked for python3.11, python3 and python on PATH), and the pinned builds need it:" \
    "install it or name one with PYTHON=/path/to/python3.11"
