# Shared by the scripts beside it: steps with times, and what must be installed.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
started=$SECONDS
export PATH=$PATH:$HOME/.cargo/bin:/usr/local/go/bin:/usr/sbin:/sbin

step() { printf '\n== %s (%d s so far)\n' "$*" $((SECONDS - started)) >&2; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

# need PROGRAM PACKAGE...: installs Debian packages when PROGRAM is missing and this is root; else says what to do.
need() {
  local program=$1
  shift
  command -v "$program" > /dev/null && return 0
  if [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
    step "installing $*"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@" > /dev/null
    command -v "$program" > /dev/null && return 0
  fi
  fail "$program is needed: install ${*} (Debian: apt-get install $*)"
}

# The programs of a PostgreSQL server; Debian keeps them off the path.
has_postgres() { compgen -G '/usr/lib/postgresql/*/bin/initdb' > /dev/null || command -v initdb > /dev/null; }
need_postgres() {
  if [ "${PILOTHOUSE_TEST_WITHOUT_POSTGRES:-}" = 1 ] || has_postgres; then return 0; fi
  if [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
    step "installing postgresql"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql > /dev/null
    has_postgres && return 0
  fi
  fail "a PostgreSQL server is needed: install postgresql (Debian: apt-get install postgresql), or set PILOTHOUSE_TEST_WITHOUT_POSTGRES=1"
}

compilers() {
  command -v cargo > /dev/null || fail "cargo is needed: https://rustup.rs"
  command -v go > /dev/null || fail "go 1.26 or newer is needed: https://go.dev/dl"
  need git git
  need cc gcc libc6-dev
}

# Images need npm too: opencode comes from there.
toolchains() {
  compilers
  need npm npm
}

# Continuous integration checks out anew each time: dependencies stay compiled in the user's cache.
if [ "${CI:-}" = true ] && [ -z "${CARGO_TARGET_DIR:-}" ]; then
  export CARGO_TARGET_DIR=${XDG_CACHE_HOME:-$HOME/.cache}/pilothouse/target
fi
