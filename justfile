# Recipes for daily work; `just` lists them. CI runs `.ci/run`, which needs no just.

default:
    @just --list

# The proxy in front of two built-in upstreams
demo *args:
    cargo run --release -- demo {{args}}

# All tests that need only Rust
test:
    cargo test

# Format, lints, tests: what a commit must pass
check:
    cargo fmt --check
    cargo clippy --all-targets -- -D warnings
    cargo test

# What CI runs; parts by name: `just ci lint test`
ci *parts:
    .ci/run {{parts}}

# Against Envoy: same bootstrap, same requests; `just differential --only 'xff-*'`
differential *args: release
    python3 tests/peers/differential.py {{args}}

# Single steps of the path: time, and instructions against the committed table
bench *args:
    cd benches/micro && cargo bench -- {{args}}
instructions *args:
    benches/count-instructions {{args}}

# Memory and size budgets of the release build
budgets: release
    python3 tests/peers/budgets.py

release:
    cargo build --release

# Licences, sources, duplicate versions, advisories
deny:
    cargo deny check

# The image, and what is in it
image:
    docker build -t ringway .
    docker image ls ringway
