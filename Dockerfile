# Sidegate's image: the builder makes a virtual environment, the second stage carries nothing else.
#   docker build --tag sidegate:0.1.0 .
# Base images are named by tag so that a rebuild brings fixes; pin them by digest in your pipeline.

FROM python:3.13-slim AS builder
WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# Every package is pinned by hash, the build's own too; the head of the file says how it is cut.
COPY constraints.txt ./
RUN sed '/^# == build/,$d' constraints.txt > runtime.txt \
    && sed '/^# == demo/,$d' constraints.txt > build.txt \
    && python -m venv --without-pip /opt/sidegate \
    && pip --python /opt/sidegate/bin/python install --no-cache-dir --require-hashes -r runtime.txt \
    && pip install --no-cache-dir --require-hashes -r build.txt
COPY pyproject.toml README.md LICENSE ./
COPY proxy ./proxy
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir dist . \
    && pip --python /opt/sidegate/bin/python install --no-cache-dir --no-deps dist/sidegate-*.whl

FROM python:3.13-slim
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Sidegate" \
      org.opencontainers.image.description="Session validation beside an API gateway" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="docker.io/library/python:3.13-slim"

COPY --from=builder /opt/sidegate /opt/sidegate
# The SQLite file of the embedded default, and the gate's Unix socket.
RUN ["install", "--directory", "--owner=65532", "--group=65532", "--mode=0750", \
     "/var/lib/sidegate", "/run/sidegate"]

ENV PATH="/opt/sidegate/bin:${PATH}" \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    SIDEGATE_DATA_DIR=/var/lib/sidegate

# A number, not a name: Kubernetes cannot tell that a name is not root.
USER 65532:65532
WORKDIR /var/lib/sidegate

# Every listener is on loopback until the settings say otherwise; see docs/deployment.md.
# Gate and ops only: the admin listener is for the machine it runs on.
EXPOSE 7080 7082
STOPSIGNAL SIGTERM
# For Docker and Compose; Kubernetes has its own probes.
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s --retries=3 CMD ["sidegate", "healthcheck"]
ENTRYPOINT ["sidegate"]
CMD ["serve"]
