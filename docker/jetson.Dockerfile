# A Jetson with JetPack 6. Its onnxruntime with CUDA and TensorRT is NVIDIA's own and not on PyPI: fetch the
# wheel for Python 3.10 from NVIDIA, put it beside the README and give its name:
#
#   docker build -f docker/jetson.Dockerfile -t tgems-edge \
#       --build-arg ONNXRUNTIME_WHEEL=onnxruntime_gpu-1.20.0-cp310-cp310-linux_aarch64.whl .
#   docker run --rm --runtime nvidia --read-only --network none -v "$PWD:/data:ro" \
#       tgems-edge classify --provider CUDA cat.jpg
#
# Its steps were tried on plain Debian with PyPI's onnxruntime; a Jetson was not at hand. The base is
# l4t-jetpack:r36.4.0 by its digest. NVIDIA's wheel comes with no hash: compare it with what NVIDIA states.
FROM nvcr.io/nvidia/l4t-jetpack:r36.4.0@sha256:34ccf0f3b63c6da9eee45f2e79de9bf7fdf3beda9abfd72bbf285ae9d40bb673 AS base
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-pip python3-venv \
    && rm -rf /var/lib/apt/lists/*

FROM base AS build
ARG ONNXRUNTIME_WHEEL
COPY $ONNXRUNTIME_WHEEL /wheels/
COPY requirements/build.txt requirements/jetson.txt /requirements/
# No PyPI onnxruntime: it would take the place of NVIDIA's, and it has no CUDA for arm64.
RUN python3 -m venv /opt/build && /opt/build/bin/pip install --no-cache-dir --require-hashes -r /requirements/build.txt \
    && python3 -m venv /opt/tgems \
    && /opt/tgems/bin/pip install --no-cache-dir --require-hashes -r /requirements/jetson.txt \
    && /opt/tgems/bin/pip install --no-cache-dir --no-deps /wheels/*.whl
COPY pyproject.toml README.md LICENSE /source/
COPY tgems_edge /source/tgems_edge
RUN /opt/build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /built /source \
    && /opt/tgems/bin/pip install --no-cache-dir --no-deps /built/*.whl

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
