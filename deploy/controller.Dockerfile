# The controller, with the command line. Build from the project's folder:
#   docker build -f deploy/controller.Dockerfile -t ferry-controller .
# BASE_IMAGE: see deploy/agent.Dockerfile.
ARG BASE_IMAGE=node:20-bookworm

FROM ${BASE_IMAGE} AS build
WORKDIR /opt/ferry
COPY . .
RUN bash scripts/setup.sh && npm prune --omit=dev --ignore-scripts --no-audit --no-fund

FROM ${BASE_IMAGE}
RUN apt-get update -q \
  && apt-get install -y -q --no-install-recommends liblz4-1 \
  && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/ferry
COPY --from=build /opt/ferry/package.json ./
COPY --from=build /opt/ferry/node_modules node_modules
COPY --from=build /opt/ferry/packages packages
COPY --from=build /opt/ferry/services services
COPY --from=build /opt/ferry/proto proto
COPY --from=build /opt/ferry/dist dist
COPY --from=build /opt/ferry/bin bin
COPY deploy/certificates.sh /usr/local/bin/ferry-certificates
RUN ln -s /opt/ferry/bin/ferry /usr/local/bin/ferry
EXPOSE 7460
ENTRYPOINT ["node", "/opt/ferry/dist/ferry-controller.mjs"]
ENV FERRY_TLS=/etc/ferry/operator
CMD ["--listen", "0.0.0.0:7460", "--tls", "/etc/ferry/tls", "--redis", "redis://redis:6379", "--redis-password-file", "/run/ferry-redis/password"]
