# The image of Sidegate: the builder creates a virtual environment; the second stage has only that.
#   docker build --tag sidegate:0.2.0 .
# Base images have a tag, so that a rebuild gets fixes; pin them by digest in your pipeline.

FROM python:3.13-slim AS builder
WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# Every package is pinned by hash, those of the build too. The file has one section for each use.
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
      org.opencontainers.image.version="0.2.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="docker.io/library/python:3.13-slim"

COPY --from=builder /opt/sidegate /opt/sidegate
# For the SQLite file, and for the Unix socket of the gate.
RUN ["install", "--directory", "--owner=65532", "--group=65532", "--mode=0750", \
     "/var/lib/sidegate", "/run/sidegate"]

ENV PATH="/opt/sidegate/bin:${PATH}" \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    SIDEGATE_DATA_DIR=/var/lib/sidegate

# A number, not a name: Kubernetes cannot verify that a name is not root.
USER 65532:65532
WORKDIR /var/lib/sidegate

# Every listener is on loopback by default; see docs/deployment.md.
# Gate and ops only: the admin listener is for local clients.
EXPOSE 7080 7082
STOPSIGNAL SIGTERM
# For Docker and Compose; Kubernetes has its own probes.
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s --retries=3 CMD ["sidegate", "healthcheck"]
ENTRYPOINT ["sidegate"]
CMD ["serve"]
