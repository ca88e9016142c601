# The workstation: train, export and study, with torch and CUDA from PyPI. Without a GPU it is much smaller:
# add --build-arg PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
#
#   docker build -f docker/workstation.Dockerfile -t tgems-workstation .
#   docker run --rm --gpus all --user "$(id -u)" -v "$PWD:/data" tgems-workstation train pictures/ --layer 5
FROM python:3.13-slim-trixie AS base

FROM base AS build
ARG PIP_EXTRA_INDEX_URL
COPY pyproject.toml README.md LICENSE /source/
COPY tgems_edge /source/tgems_edge
COPY export /source/export
RUN python3 -m venv --without-pip /opt/tgems \
    && pip --python /opt/tgems/bin/python3 install --no-cache-dir "/source[cpu,export]"

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
