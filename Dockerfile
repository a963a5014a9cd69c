# relayd in a container. Build: docker build -t relayd .   Run: see etc/compose.yaml
#
#   /etc/relayd/relayd.yaml   the configuration (mount it; secrets beside it or in /run/secrets)
#   /var/lib/relayd           the queue (a volume: acknowledged mail lives here)
#
# Runs as user relayd (uid 8025), never as root; the binary may bind port 25 by its file capability,
# which it raises itself: so it also starts where a runtime does not allow that capability.

FROM debian:bookworm-slim AS build
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        build-essential cmake ninja-build pkg-config libcap2-bin \
        libc-ares-dev libcjson-dev libcmocka-dev libcrypt-dev libevent-dev libidn2-dev \
        liblmdb-dev libmaxminddb-dev libmilter-dev libopendkim-dev libpcre2-dev \
        libseccomp-dev libssl-dev libyaml-dev
COPY . /src
WORKDIR /src
RUN cmake --preset release && cmake --build build/release --target relayd relayctl \
    && strip -o /relayd build/release/bin/relayd \
    && strip -o /relayctl build/release/bin/relayctl \
    && setcap cap_net_bind_service=+p /relayd

FROM debian:bookworm-slim
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        ca-certificates libc-ares2 libcjson1 libcrypt1 libevent-core-2.1-7 libidn2-0 liblmdb0 \
        libmaxminddb0 libopendkim11 libpcre2-8-0 libseccomp2 libssl3 libyaml-0-2 \
    && apt-get clean && rm -rf /var/lib/apt/lists/* \
    && groupadd --system --gid 8025 relayd \
    && useradd --system --uid 8025 --gid relayd --home-dir /var/lib/relayd --no-create-home \
        --shell /usr/sbin/nologin relayd \
    && install -d -o relayd -g relayd -m 0750 /var/lib/relayd \
    && install -d -m 0755 /etc/relayd \
    && install -d -m 1777 /run/relayd # what is mounted there takes the mode over, not the owner
COPY --from=build /relayd /usr/sbin/relayd
COPY --from=build /relayctl /usr/bin/relayctl
COPY LICENSE /usr/share/doc/relayd/copyright

USER relayd
VOLUME /var/lib/relayd
EXPOSE 25 465 587
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s \
    CMD ["timeout", "4", "relayctl", "-c", "/etc/relayd/relayd.yaml", "status"]
ENTRYPOINT ["relayd"]
CMD ["-c", "/etc/relayd/relayd.yaml"]
