# docker build -t cafe .          on CPUs and GPUs: torch as PyPI has it, which brings its CUDA libraries
#   --build-arg TORCH_INDEX=URL   torch of another index, e.g. that of pytorch.org for CPUs: a small image
#   --build-arg BASE=IMAGE        another base with Python 3.11 or newer or apt, e.g. one of nvidia/cuda
#   --build-arg EXTRAS=onnx       which extras of pyproject.toml
# docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/data" cafe info map.tif
#   --gpus all --shm-size 8g      for training and maps on GPUs
ARG BASE=python:3.12-slim-bookworm

FROM ${BASE} AS base
# Bases for CUDA have no Python. The wheels of rasterio bring GDAL, but not the expat that it reads XML with.
# hadolint ignore=DL3008
RUN if ! python3 -c "import pyexpat, venv"; then \
      apt-get update && \
      apt-get install -y --no-install-recommends libexpat1 python3 python3-venv && \
      rm -rf /var/lib/apt/lists/*; \
    fi

FROM base AS build
ARG EXTRAS="onnx,parquet,stac"
ARG TORCH_INDEX=""
ENV PATH=/opt/cafe/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ONLY_BINARY=:all:
WORKDIR /src
# The packages that cafe needs are a layer of their own, which is made again when pyproject.toml changes.
COPY pyproject.toml ./
# hadolint ignore=DL3013
RUN python3 -m venv /opt/cafe && \
    if [ -n "$TORCH_INDEX" ]; then pip install --index-url "$TORCH_INDEX" torch torchvision; fi && \
    python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
      extras = [p['optional-dependencies'][e] for e in '$EXTRAS'.split(',') if e]; \
      print(*p['dependencies'], *sum(extras, []), sep='\n')" > needs.txt && \
    pip install -r needs.txt
COPY . .
RUN pip install --no-deps .

FROM base
RUN useradd --uid 10001 cafe
COPY --from=build /opt/cafe /opt/cafe
# torch asks for the name of the user, matplotlib and torch for a home, which another --user has not.
ENV PATH=/opt/cafe/bin:$PATH HOME=/tmp USER=cafe
USER 10001
WORKDIR /data
ENTRYPOINT ["cafe"]
CMD ["--help"]
