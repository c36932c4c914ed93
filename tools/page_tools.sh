#!/bin/sh
# The tests of the web page drive a real Chromium and run its modules in Node. Installs what is
# missing where it may (Debian and its kin, as root), else says what to do; the tests then fail.
set -eu

has() {
    for name in "$@"; do
        command -v "$name" >/dev/null 2>&1 && return 0
    done
    return 1
}

missing=""
has chromium chromium-browser google-chrome || missing="$missing chromium fonts-liberation"
has node || missing="$missing nodejs"
[ -z "$missing" ] && exit 0

if [ "$(id -u)" = 0 ] && has apt-get; then
    echo "qwell: installing$missing for the tests of the web page"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # shellcheck disable=SC2086
    apt-get install -y -qq --no-install-recommends $missing >/dev/null
else
    echo "qwell: the tests of the web page need$missing: install them with your system's package manager"
fi
