# The agent: one per host, privileged. Build from the project's folder:
#   docker build -f deploy/agent.Dockerfile -t ferry-agent .
# Where no image registry is reachable, give an image of your own that holds Debian 12 and Node 20, for example one
# made with debootstrap and "docker import":
#   docker build -f deploy/agent.Dockerfile --build-arg BASE_IMAGE=my-debian-node -t ferry-agent .
ARG BASE_IMAGE=node:20-bookworm

FROM ${BASE_IMAGE} AS build
WORKDIR /opt/ferry
COPY . .
RUN bash scripts/setup.sh && npm prune --omit=dev --ignore-scripts --no-audit --no-fund

FROM ${BASE_IMAGE}
RUN apt-get update -q \
  && apt-get install -y -q --no-install-recommends runc iproute2 nftables liblz4-1 procps util-linux redis-server \
  && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/ferry
COPY --from=build /opt/ferry/package.json ./
COPY --from=build /opt/ferry/node_modules node_modules
COPY --from=build /opt/ferry/packages packages
COPY --from=build /opt/ferry/services services
COPY --from=build /opt/ferry/proto proto
COPY --from=build /opt/ferry/dist dist
COPY --from=build /opt/ferry/bin bin
COPY deploy/agent-entrypoint.sh /usr/local/bin/agent-entrypoint
RUN ln -s /opt/ferry/bin/ferry /usr/local/bin/ferry
# Containers' files lie on a layered file system: that cannot be nested in the image's own, so this is a volume.
VOLUME /var/lib/ferry
EXPOSE 7461
ENTRYPOINT ["bash", "/usr/local/bin/agent-entrypoint"]
