# Redis for the controller's queues and records. Build from the project's folder:
#   docker build -f deploy/redis.Dockerfile -t ferry-redis .
# BASE_IMAGE: any Debian 12; see deploy/agent.Dockerfile.
ARG BASE_IMAGE=node:20-bookworm
FROM ${BASE_IMAGE}
RUN apt-get update -q \
  && apt-get install -y -q --no-install-recommends redis-server \
  && rm -rf /var/lib/apt/lists/*
VOLUME /data
EXPOSE 6379
COPY deploy/redis-entrypoint.sh /usr/local/bin/redis-entrypoint
ENTRYPOINT ["bash", "/usr/local/bin/redis-entrypoint"]
