# syntax=docker/dockerfile:1
# The server and nothing else: `docker build --tag parley .`
# It serves the project in /srv/parley: mount your own there, or build on this image:
#   FROM parley
#   COPY --chown=root:root my-project /srv/parley

ARG PYTHON=3.13-slim-bookworm

FROM python:${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv --without-pip /opt/parley
WORKDIR /src
# What is locked first: it changes seldom, and this layer with it. A package whose hash differs is not installed.
COPY requirements.lock ./
RUN pip --python /opt/parley/bin/python install --require-hashes --only-binary :all: --requirement requirements.lock
COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY clients/python clients/python
COPY protocol protocol
COPY storage storage
COPY server server
RUN pip --python /opt/parley/bin/python install --no-index --no-deps --no-build-isolation ./clients/python .


FROM python:${PYTHON}
RUN useradd --system --uid 10001 --user-group --no-create-home --home-dir /srv/parley parley \
    && install --directory --owner parley --group parley /var/lib/parley
COPY --from=build /opt/parley /opt/parley
COPY examples/booking /srv/parley
ENV PATH=/opt/parley/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PARLEY_HOST=0.0.0.0 \
    PARLEY_PORT=8765 \
    PARLEY_STORE=sqlite:/var/lib/parley/parley.db
WORKDIR /srv/parley
USER 10001:10001
EXPOSE 8765
VOLUME ["/var/lib/parley"]
STOPSIGNAL SIGTERM
# Whether the process lives, not whether its store does: a restart mends only the first.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --start-interval=1s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as http; http.urlopen(f'http://127.0.0.1:{os.environ[\"PARLEY_PORT\"]}/livez', timeout=2)"]
ENTRYPOINT ["parley"]
CMD ["serve"]
