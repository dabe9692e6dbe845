# The image of every part written in Python: service, exporter, alert receiver, load. The command says which.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
FROM ${PYTHON_IMAGE}

ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /app
COPY requirements/image.txt requirements/image.txt
RUN python -m pip install --no-cache-dir --require-hashes -r requirements/image.txt

COPY pyproject.toml LICENSE README.md ./
COPY smartcache smartcache
COPY service service
COPY exporter exporter
COPY alerts alerts
COPY loadtest loadtest
COPY stack stack
COPY docs/runbooks docs/runbooks
# The requirements above are the whole truth; the project itself brings nothing more.
RUN python -m pip install --no-cache-dir --no-deps --no-build-isolation .

# Owned by the user below, so that a fresh volume mounted here is too.
RUN install --directory --owner=10001 --group=10001 /var/lib/smartcache/metrics
USER 10001:10001
