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
# The queue must never lose a job to eviction, and records outlive a restart.
CMD ["redis-server", "--bind", "0.0.0.0", "--protected-mode", "no", "--dir", "/data", "--appendonly", "yes", "--save", "", "--maxmemory-policy", "noeviction"]
