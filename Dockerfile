# Builds the image: docker build --target cpu (or cuda, cuda12, openvino) --tag immich-ml-cn:cpu .
#
# The base may be any Debian or Ubuntu with Python 3.11 or newer, its own or the official image's; where there is none,
# Debian's is installed. All targets take the same one: the libraries of CUDA and OpenVINO come with the
# Python packages.
#
# Where the registries are slow or blocked, mirrors take their place: BASE_IMAGE, APT_MIRROR and PYPI_INDEX, with examples
# for China in docs/deploy.md. What a mirror brings is checked: packages by Debian's signatures, and by the lock's hashes.
ARG BASE_IMAGE=python:3.13-slim-bookworm

# --- what the build and the images have in common ---

FROM ${BASE_IMAGE} AS base
# Scheme and host of a mirror that has /debian (or /ubuntu), by http: there are no certificates in the base yet.
ARG APT_MIRROR=""
RUN test -z "${APT_MIRROR}" || find /etc/apt -name '*.sources' -o -name '*.list' | xargs \
        sed --in-place --regexp-extended "s#https?://[^/ ]+/(debian|ubuntu)#${APT_MIRROR}/\1#"
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates tini \
        $(command -v python3 >/dev/null || echo python3) \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log

# --- the build: uv, by hash, and with it one environment per target ---

FROM base AS builder
RUN python3 -c 'import ensurepip' 2>/dev/null \
    || (apt-get update && apt-get install --yes --no-install-recommends python3-venv)
# Another index for the packages, e.g. a mirror that is near; what it delivers must have the hashes of the lock.
ARG PYPI_INDEX=""
ENV UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
WORKDIR /build
COPY requirements/uv.txt requirements/
RUN python3 -m venv /opt/uv \
    && PIP_INDEX_URL=${PYPI_INDEX} /opt/uv/bin/python -m pip install --quiet --no-cache-dir \
        --disable-pip-version-check --no-deps --require-hashes --requirement requirements/uv.txt
COPY scripts/image-environment scripts/

FROM builder AS cpu-environment
COPY requirements/cpu.txt requirements/
RUN --mount=type=cache,target=/root/.cache/uv scripts/image-environment cpu /opt/venv

FROM builder AS cuda-environment
COPY requirements/cuda.txt requirements/
RUN --mount=type=cache,target=/root/.cache/uv scripts/image-environment cuda /opt/venv

FROM builder AS cuda12-environment
COPY requirements/cuda12.txt requirements/
RUN --mount=type=cache,target=/root/.cache/uv scripts/image-environment cuda12 /opt/venv

FROM builder AS openvino-environment
COPY requirements/openvino.txt requirements/
RUN --mount=type=cache,target=/root/.cache/uv scripts/image-environment openvino /opt/venv

# Nobody can write bytecode in the image. Unchecked, for a copy may change the times of the files.
FROM base AS compiler
COPY immich_ml_cn /usr/src/immich_ml_cn
RUN python3 -m compileall -q --invalidation-mode unchecked-hash /usr/src/immich_ml_cn

FROM scratch AS application
COPY LICENSE deploy/healthcheck.py /usr/src/
COPY --chmod=755 deploy/immich-ml-cn /usr/local/bin/
COPY --from=compiler /usr/src/immich_ml_cn /usr/src/immich_ml_cn

# --- what the images have in common; targets below only add files ---

FROM base AS runtime
# Any user may write to a new volume, so that `user:` in a compose file needs no preparation.
RUN useradd --uid 1000 --user-group --no-create-home --home-dir /cache --shell /usr/sbin/nologin immich \
    && install --directory --owner=1000 --group=1000 --mode=0777 /cache
LABEL org.opencontainers.image.title="immich-ml-cn" \
    org.opencontainers.image.description="Machine-learning server for Immich that understands Chinese" \
    org.opencontainers.image.licenses="MIT"
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/usr/src \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/cache \
    MACHINE_LEARNING_CACHE_FOLDER=/cache \
    MACHINE_LEARNING_MODEL_ARENA=false
WORKDIR /usr/src
USER 1000:1000
EXPOSE 3003
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s --retries=3 CMD ["python3", "healthcheck.py"]
ENTRYPOINT ["tini", "--"]
CMD ["python", "-m", "immich_ml_cn"]

# --- the targets ---
# MODELS: names to bake in, as `immich-ml-cn models list` shows them; the two arguments below it say where from.

FROM runtime AS openvino
USER 0:0
# Intel's graphics; a newer Debian as the base has a newer driver. Without graphics the CPU computes.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends intel-opencl-icd \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log
USER 1000:1000
COPY --from=openvino-environment /opt/venv /opt/venv
COPY --from=application / /
ARG MODELS=""
ARG MACHINE_LEARNING_MODEL_SOURCE=""
ARG HF_ENDPOINT=""
RUN test -z "${MODELS}" || immich-ml-cn models fetch ${MODELS}
VOLUME /cache
ARG IMMICH_SOURCE_REF=""
ENV IMMICH_SOURCE_REF=${IMMICH_SOURCE_REF}
LABEL org.opencontainers.image.revision="${IMMICH_SOURCE_REF}"

FROM runtime AS cuda12
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=cuda12-environment /opt/venv /opt/venv
COPY --from=application / /
ARG MODELS=""
ARG MACHINE_LEARNING_MODEL_SOURCE=""
ARG HF_ENDPOINT=""
RUN test -z "${MODELS}" || immich-ml-cn models fetch ${MODELS}
VOLUME /cache
ARG IMMICH_SOURCE_REF=""
ENV IMMICH_SOURCE_REF=${IMMICH_SOURCE_REF}
LABEL org.opencontainers.image.revision="${IMMICH_SOURCE_REF}"

FROM runtime AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=cuda-environment /opt/venv /opt/venv
COPY --from=application / /
ARG MODELS=""
ARG MACHINE_LEARNING_MODEL_SOURCE=""
ARG HF_ENDPOINT=""
RUN test -z "${MODELS}" || immich-ml-cn models fetch ${MODELS}
VOLUME /cache
ARG IMMICH_SOURCE_REF=""
ENV IMMICH_SOURCE_REF=${IMMICH_SOURCE_REF}
LABEL org.opencontainers.image.revision="${IMMICH_SOURCE_REF}"

FROM runtime AS cpu
COPY --from=cpu-environment /opt/venv /opt/venv
COPY --from=application / /
ARG MODELS=""
ARG MACHINE_LEARNING_MODEL_SOURCE=""
ARG HF_ENDPOINT=""
RUN test -z "${MODELS}" || immich-ml-cn models fetch ${MODELS}
VOLUME /cache
ARG IMMICH_SOURCE_REF=""
ENV IMMICH_SOURCE_REF=${IMMICH_SOURCE_REF}
LABEL org.opencontainers.image.revision="${IMMICH_SOURCE_REF}"
