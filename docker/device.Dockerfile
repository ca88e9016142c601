# The device: Python, onnxruntime and the built-in file; no torch and no pip. For amd64 and arm64:
#
#   docker build -f docker/device.Dockerfile -t tgems-edge .
#   docker run --rm --read-only --network none --cap-drop ALL -v "$PWD:/data:ro" tgems-edge classify cat.jpg
#
# The base is python:3.13-slim-trixie by its digest, and what is installed has hashes: `make lock` renews both
# lists of requirements/, `docker pull` tells the digest of a newer base.
FROM python:3.13-slim-trixie@sha256:9d2e5553305c7c7b0097999bb17187c69b921ccd6bc9d40e4bb5ebe652c00285 AS base

FROM base AS build
COPY requirements/build.txt requirements/device.txt /requirements/
RUN pip install --no-cache-dir --require-hashes -r /requirements/build.txt \
    && python3 -m venv --without-pip /opt/tgems \
    && pip --python /opt/tgems/bin/python3 install --no-cache-dir --require-hashes -r /requirements/device.txt
COPY pyproject.toml README.md LICENSE /source/
COPY tgems_edge /source/tgems_edge
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels /source \
    && pip --python /opt/tgems/bin/python3 install --no-cache-dir --no-deps /wheels/*.whl

FROM base
COPY --from=build /opt/tgems /opt/tgems
RUN useradd --create-home edge
ENV PATH=/opt/tgems/bin:$PATH
USER edge
WORKDIR /data
# Recomputes the samples in the file: $TGEMS_MODEL, else /data/model.onnx, else the built-in one.
HEALTHCHECK --interval=10m --timeout=1m CMD ["tgems-edge", "verify", "--quiet"]
ENTRYPOINT ["tgems-edge"]
CMD ["--help"]
