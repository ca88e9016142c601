# The device: Python, onnxruntime and the built-in file; no torch and no pip. For amd64 and arm64:
#
#   docker build -f docker/device.Dockerfile -t tgems-edge .
#   docker run --rm -v "$PWD:/data:ro" tgems-edge classify cat.jpg
FROM python:3.13-slim-trixie AS base

FROM base AS build
# Without export/: the demo CLIP in it weighs ten times as much as all that runs on a device.
COPY pyproject.toml README.md LICENSE /source/
COPY tgems_edge /source/tgems_edge
RUN python3 -m venv --without-pip /opt/tgems \
    && pip --python /opt/tgems/bin/python3 install --no-cache-dir "/source[cpu]"

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
