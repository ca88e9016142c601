# The workstation: train, export and study, with torch and CUDA from PyPI.
#
#   docker build -f docker/workstation.Dockerfile -t tgems-workstation .
#   docker run --rm --gpus all --user "$(id -u)" -v "$PWD:/data" tgems-workstation train pictures/ --layer 5
#
# The base is python:3.13-slim-trixie by its digest, and what is installed has hashes: see device.Dockerfile.
FROM python:3.13-slim-trixie@sha256:9d2e5553305c7c7b0097999bb17187c69b921ccd6bc9d40e4bb5ebe652c00285 AS base

FROM base AS build
COPY requirements/build.txt requirements/workstation.txt /requirements/
RUN pip install --no-cache-dir --require-hashes -r /requirements/build.txt \
    && python3 -m venv --without-pip /opt/tgems \
    && pip --python /opt/tgems/bin/python3 install --no-cache-dir --require-hashes -r /requirements/workstation.txt
COPY pyproject.toml README.md LICENSE /source/
COPY tgems_edge /source/tgems_edge
COPY export /source/export
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels /source /source/export \
    && pip --python /opt/tgems/bin/python3 install --no-cache-dir --no-deps /wheels/*.whl

FROM base
COPY --from=build /opt/tgems /opt/tgems
# Files are written as whoever --user names, and caches lie in this home: mount it to keep them.
RUN useradd --create-home edge && chmod 1777 /home/edge
ENV PATH=/opt/tgems/bin:$PATH HOME=/home/edge
USER edge
WORKDIR /data
# Cuts the demo CLIP, compares the graph with PyTorch and writes a file.
HEALTHCHECK --interval=1h --timeout=5m \
    CMD ["tgems-edge", "export", "--layer", "1", "--output", "/tmp/health.onnx", "--overwrite", "--quiet"]
ENTRYPOINT ["tgems-edge"]
CMD ["--help"]
