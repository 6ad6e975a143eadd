# syntax=docker/dockerfile:1
# Ringway in a few megabytes: the binary, the three libraries it is linked to, Debian's certificate authorities, nothing else.
#
#   docker build -t ringway .
#   docker run --rm -p 10000:10000 -p 127.0.0.1:9901:9901 -v ./envoy.yaml:/etc/ringway/envoy.yaml:ro ringway
#
# io_uring: Docker's default seccomp profile blocks it, and Ringway then says so in one line and uses epoll, which is nearly as fast
# (README.md, "Containers and io_uring"). To let it have the ring, give it the profile of this repository: what Ringway needs and no more,
# the three io_uring calls among it:
#
#   docker run --security-opt seccomp=deploy/seccomp-io_uring.json ...
#
# glibc and not musl: mimalloc, name resolution and pthread stacks were measured on glibc. The image holds the very libraries that the
# build linked to, so builder and image cannot drift apart.

FROM rust:1-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY Cargo.toml Cargo.lock rust-toolchain.toml build.rs ./
COPY src src
COPY tuning/functions.ld tuning/
COPY deploy/image-root.sh deploy/
ARG RINGWAY_REVISION
RUN cargo build --release --locked \
    && sh deploy/image-root.sh target/release/ringway /image

FROM scratch
COPY --from=build /image /
USER 65532:65532
# Ports below 1024 need no privilege where net.ipv4.ip_unprivileged_port_start is 0 in the container's network namespace: Docker (20.10)
# and containerd (2.0) set it; elsewhere in Kubernetes the pod does (securityContext.sysctls, it is a safe one).
EXPOSE 10000 9901
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/ringway"]
CMD ["-c", "/etc/ringway/envoy.yaml"]
