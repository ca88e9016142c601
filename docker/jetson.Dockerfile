# A Jetson with JetPack 6. Its onnxruntime with CUDA and TensorRT is NVIDIA's own and not on PyPI: fetch the
# wheel for Python 3.10 from NVIDIA, put it beside this README and give its name:
#
#   docker build -f docker/jetson.Dockerfile -t tgems-edge \
#       --build-arg ONNXRUNTIME_WHEEL=onnxruntime_gpu-1.20.0-cp310-cp310-linux_aarch64.whl .
#   docker run --rm --runtime nvidia -v "$PWD:/data:ro" tgems-edge classify --provider CUDA cat.jpg
#
# Its steps were tried with docker/check.py, on plain Debian with PyPI's onnxruntime; a Jetson was not at hand.
FROM nvcr.io/nvidia/l4t-jetpack:r36.4.0 AS base
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-pip python3-venv \
    && rm -rf /var/lib/apt/lists/*

FROM base AS build
ARG ONNXRUNTIME_WHEEL
COPY $ONNXRUNTIME_WHEEL /wheels/
COPY pyproject.toml README.md LICENSE /source/
COPY tgems_edge /source/tgems_edge
# No extra: PyPI's onnxruntime would take the place of NVIDIA's, and it has no CUDA for arm64.
RUN python3 -m venv /opt/tgems && /opt/tgems/bin/pip install --no-cache-dir /wheels/*.whl /source

FROM base
COPY --from=build /opt/tgems /opt/tgems
# The group video may use the GPU.
RUN useradd --create-home --groups video edge
ENV PATH=/opt/tgems/bin:$PATH
USER edge
WORKDIR /data
HEALTHCHECK --interval=10m --timeout=2m CMD ["tgems-edge", "verify", "--quiet"]
ENTRYPOINT ["tgems-edge"]
CMD ["--help"]
