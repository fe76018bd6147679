# The same image that tests/image/build makes without Docker: one static binary under two names, nothing else.
#
#   docker build --tag konductor:0.1.0 .

FROM rust:1.95.0-bookworm AS build
WORKDIR /src
COPY . .
# Linked statically, for the machine's own architecture. --target keeps the flag away from build scripts.
ENV RUSTFLAGS="-C target-feature=+crt-static"
# The image's own compiler, which is the one of rust-toolchain.toml; without this rustup would fetch the linters that it names, too.
ENV RUSTUP_TOOLCHAIN=1.95.0
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/target \
    target="$(uname -m)-unknown-linux-gnu" \
 && cargo build --release --locked --target-dir /target --target "$target" --package konductor --bin konductor \
 && mkdir /image \
 && cp "/target/$target/release/konductor" /image/konductor \
 && ln -s konductor /image/koncli \
 && mkdir /image/bin && ln -s ../konductor /image/bin/koncli

FROM scratch
COPY --from=build /image/ /
USER 65532:65532
ENTRYPOINT ["/konductor"]
