# syntax=docker/dockerfile:1
# docker build -t seriatim .
#
# The first stage has the compiler and what librdkafka is built with, the second nothing but the
# program, the C library and OpenSSL: no shell, no package manager, nobody is root.

FROM rust:1.95.0-slim-trixie AS build
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ libssl-dev make pkg-config \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
# zlib becomes a part of the program, so that it needs neither its headers here nor the library there.
ENV CARGO_INCREMENTAL=0 LIBZ_SYS_STATIC=1
# Without rust-toolchain.toml, for whose clippy and rustfmt rustup would fetch a toolchain: the image above has the
# version that it names. tests/tidy holds them together, and that nothing is missing below.
COPY Cargo.toml Cargo.lock ./
COPY benches benches
COPY docs/openapi.json docs/openapi.json
COPY topics topics
COPY src src
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin seriatim \
 && strip --strip-debug -o /seriatim target/release/seriatim \
 && mkdir /data

FROM gcr.io/distroless/cc-debian13:nonroot
COPY --from=build /seriatim /usr/local/bin/seriatim
# The embedded log, unless the log is in Kafka. Make it a volume: it is what must not be lost.
COPY --from=build --chown=65532:65532 /data /data
WORKDIR /data
USER 65532:65532
ENV SERIATIM_INGRESS__HTTP=0.0.0.0:8080 SERIATIM_ADMIN__LISTEN=0.0.0.0:8090 SERIATIM_PROCESS__LOG=json
EXPOSE 8080 8090
# SIGTERM drains; give it longer than `process.drain`, for instance with `docker stop -t 40`.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/seriatim"]
CMD ["run"]
