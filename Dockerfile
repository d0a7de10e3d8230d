# The study's image. The torch wheels carry the CUDA libraries, so the base is a plain Python; the GPU driver comes from
# the host (see docs/containers.md). The repository is mounted on /workspace, never baked in.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS builder
RUN python3 -m venv /opt/venv
COPY requirements.lock /tmp/requirements.lock
# The same hash-pinned lock as `make` and CI.
RUN --mount=type=cache,target=/root/.cache/pip,sharing=locked \
    /opt/venv/bin/python -m pip install --disable-pip-version-check --no-deps --require-hashes \
        -r /tmp/requirements.lock

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="understudy" \
      org.opencontainers.image.description="Can synthetic images stand in for real ones when a vision model is trained?" \
      org.opencontainers.image.licenses="Apache-2.0"
# git for DVC; g++ for torch.compile, which writes C++ for a CPU and launchers of Triton kernels for a GPU. Both include
# Python.h, which a Python of Debian's packages keeps apart.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ git tini \
 && { test -e "$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" \
      || apt-get install -y --no-install-recommends libpython3-dev; } \
 && rm -rf /var/lib/apt/lists/* \
 && git config --system --add safe.directory /workspace
COPY --from=builder /opt/venv /opt/venv
# With a read-only root only /workspace and /tmp are writable, so every library's cache goes below HOME. With USER set, a
# user of the image needs no entry in /etc/passwd.
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    USER=understudy \
    DVC_SITE_CACHE_DIR=/tmp/dvc \
    DVC_NO_ANALYTICS=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /workspace
USER 10001:10001
# Not `import torch`, which takes ten seconds or more.
HEALTHCHECK --interval=60s --timeout=20s --start-period=20s --retries=3 \
    CMD ["python3", "-c", "import importlib.util, sys; sys.exit(not all(map(importlib.util.find_spec, ('torch', 'dvc'))))"]
ENTRYPOINT ["tini", "--"]
CMD ["dvc", "repro"]
