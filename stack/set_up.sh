#!/bin/sh
# Make .venv what requirements/dev.txt and pyproject.toml say. The Makefile calls it when they changed.
set -eu
cd "$(dirname "$0")/.."

fail() {
    echo "set-up: $1" >&2
    exit 1
}

python=${PYTHON:-python3}
command -v "$python" >/dev/null ||
    fail "no $python on the PATH; smartcache needs Python 3.11 or newer (apt-get install python3, or set PYTHON)"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$("$python" --version) is too old; smartcache needs Python 3.11 or newer (set PYTHON to one)"

# Debian ships python3 without what `python3 -m venv` needs.
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    package="python$version-venv"
    install="apt-get install --yes --no-install-recommends $package"
    [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null ||
        fail "$python has no venv module; install it with: sudo $install"
    echo "set-up: installing $package"
    export DEBIAN_FRONTEND=noninteractive
    { $install || { apt-get update && $install; }; } >/dev/null ||
        fail "could not install it; try: apt-get update && $install"
fi

if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    echo "set-up: creating .venv"
    "$python" -m venv --clear .venv
fi
echo "set-up: installing requirements/dev.txt into .venv"
# Twice quiet: errors only. What pip warns of, and what the build back end explains at length, would bury what follows.
pip() { .venv/bin/python -m pip install --quiet --quiet --disable-pip-version-check "$@"; }
pip --require-hashes -r requirements/dev.txt
pip --no-deps --no-build-isolation --editable .
touch .venv/up-to-date
