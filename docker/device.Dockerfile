# The device: Python, onnxruntime and the built-in model, no torch. For amd64 and arm64:
#
#   docker build -f docker/device.Dockerfile -t tgems-edge .
#   docker run --rm -v "$PWD:/data" tgems-edge classify /data/cat.jpg
FROM python:3.12-slim

COPY . /source
RUN pip install --no-cache-dir "/source[cpu]" && rm -rf /source \
    && useradd --create-home edge
USER edge
WORKDIR /data
ENTRYPOINT ["tgems-edge"]
CMD ["--help"]
