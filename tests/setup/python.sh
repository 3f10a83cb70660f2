#!/bin/sh
# Prints the path of a Python 3.10 or 3.11 that runs here and can make virtual environments, or of a 3.13 that is asked
# for; prints nothing and exits with 1 where there is none.
#
#   sh tests/setup/python.sh                  the first that is found, 3.11 before 3.10
#   sh tests/setup/python.sh python3.10       one of that name
#   sh tests/setup/python.sh /path/to/python  that one
#
# What stands on PATH may be a version manager's stub that starts nothing, so each is tried; the interpreters that such
# a manager keeps are then looked for in its own folders.

versions="3.10 3.11"
case "$1" in */* | *3.13*) versions="$versions 3.13" ;; esac

runs() {
    # shellcheck disable=SC2086 # one word for each version
    [ -n "$1" ] && [ -x "$1" ] && "$1" -c \
        'import ensurepip, sys, venv; sys.exit("%d.%d" % sys.version_info[:2] not in sys.argv[1:])' $versions \
        >/dev/null 2>&1
}

# candidates 3.11, 3.10 or 3.13: the paths where such an interpreter may be, one a line
candidates() {
    name=python$1
    old=$IFS
    IFS=:
    for folder in $PATH; do echo "$folder/$name"; done
    IFS=$old
    for path in \
        "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1"*/bin/"$name" \
        "${ASDF_DATA_DIR:-$HOME/.asdf}"/installs/python/"$1"*/bin/"$name" \
        "${MISE_DATA_DIR:-$HOME/.local/share/mise}"/installs/python/"$1"*/bin/"$name" \
        "${UV_PYTHON_INSTALL_DIR:-$HOME/.local/share/uv/python}"/cpython-"$1"*/bin/"$name" \
        /opt/homebrew/opt/python@"$1"/bin/"$name" \
        /usr/local/opt/python@"$1"/bin/"$name" \
        /opt/python/"$1"*/bin/"$name" \
        /opt/hostedtoolcache/Python/"$1"*/x64/bin/"$name"; do
        echo "$path"
    done
}

first_that_runs() {
    while IFS= read -r path; do
        if runs "$path"; then
            echo "$path"
            return 0
        fi
    done
    return 1
}

case "$1" in
*/*) echo "$1" | first_that_runs ;;
*3.10*) candidates 3.10 | first_that_runs ;;
*3.11*) candidates 3.11 | first_that_runs ;;
*3.13*) candidates 3.13 | first_that_runs ;;
"" | python | python3)
    candidates 3.11 | first_that_runs || candidates 3.10 | first_that_runs ||
        for name in python3 python; do command -v "$name"; done | first_that_runs
    ;;
*) exit 1 ;;
esac
