# The sink alone, without the local stack.
FROM rust:1.95-bookworm AS build
WORKDIR /build
COPY . .
RUN cargo build --release --locked --no-default-features

FROM debian:bookworm-slim
# the authorities that certificates of NATS and Azure SQL are checked against
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /build/target/release/nats-sql-sink /usr/local/bin/nats-sql-sink
# large batches go back to the system when they are written: docs/adr/0014-what-is-held.md
ENV MALLOC_MMAP_THRESHOLD_=262144 MALLOC_TRIM_THRESHOLD_=1048576
# a number: Kubernetes cannot tell from a name that it is not root
USER 10001:10001
# /metrics /livez /readyz
EXPOSE 9464
ENTRYPOINT ["nats-sql-sink"]
CMD ["run", "--config", "/etc/nats-sql-sink/sink.toml"]
