# How to run each of these: docs/containers.md
#   docker build --target serve -t ptune-serve .     serves a bundle; no torch inside
#   docker build --target page  -t ptune-page .      the page of a server that runs elsewhere
#   docker build --target train -t ptune-train .     fine-tunes and exports
# The base needs Python 3.11 to 3.13 with pip and venv, on Debian.
ARG BASE=python:3.12-slim

FROM ${BASE} AS base
ENV PATH=/opt/ptune/bin:$PATH PYTHONUNBUFFERED=1
# A number of its own, so that Kubernetes sees that it is not root, and a volume's owner can be set to it.
RUN groupadd --gid 10001 ptune \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin ptune
LABEL org.opencontainers.image.title="ptune" \
      org.opencontainers.image.description="Fine-tune a model on your own hardware and serve exactly the adapter you trained." \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"

FROM scratch AS source
COPY ptune /src/ptune
COPY serve /src/serve
COPY recipes /src/recipes

# An environment for an empty ptune: what it depends on is a layer that changes of ptune's code leave as it is.
FROM base AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_PYTHON=/opt/ptune
WORKDIR /src
RUN python3 -m venv --without-pip /opt/ptune && mkdir -p ptune/data/samples recipes/accelerate serve
COPY pyproject.toml setup.py README.md LICENSE ./

# Own operators, for processors that have them. KERNELS=0 leaves them out: the server then runs the plain graphs.
FROM base AS kernels
ARG KERNELS=1
WORKDIR /src
COPY kernels kernels
RUN --mount=type=cache,target=/root/.cache/pip \
    mkdir /wheels && if [ "$KERNELS" = 1 ] && [ "$(uname -m)" = x86_64 ]; then \
        apt-get update && apt-get install -y --no-install-recommends g++ libonnxruntime-dev \
        && rm -rf /var/lib/apt/lists/* && pip wheel --no-deps --wheel-dir /wheels ./kernels; \
    fi

# Packages bring their tests, a tenth of the image.
FROM build AS serve-build
RUN --mount=type=cache,target=/root/.cache/pip pip install '.[serve]'
RUN --mount=type=cache,target=/root/.cache/pip --mount=from=kernels,source=/wheels,target=/wheels \
    find /wheels -name '*.whl' -exec pip install {} +
COPY --from=source /src /src
RUN --mount=type=cache,target=/root/.cache/pip pip install --no-deps --force-reinstall . \
    && find /opt/ptune -type d \( -name tests -o -name test \) -prune -exec rm -r {} +

FROM build AS page-build
RUN --mount=type=cache,target=/root/.cache/pip pip install '.[serve,ui]'
COPY --from=source /src /src
RUN --mount=type=cache,target=/root/.cache/pip pip install --no-deps --force-reinstall . \
    && find /opt/ptune -type d \( -name tests -o -name test \) -prune -exec rm -r {} +

FROM build AS train
# Empty: the default wheel, which brings CUDA. Without a GPU pass the CPU index that pytorch.org/get-started names.
ARG TORCH_INDEX=
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch
RUN --mount=type=cache,target=/root/.cache/pip pip install '.[all]'
RUN --mount=type=cache,target=/root/.cache/pip --mount=from=kernels,source=/wheels,target=/wheels \
    find /wheels -name '*.whl' -exec pip install {} +
COPY --from=source /src /src
RUN --mount=type=cache,target=/root/.cache/pip pip install --no-deps --force-reinstall . \
    && mkdir --mode=777 /work
# Runs, bundles and caches: all in the folder that is mounted, whoever owns it.
ENV HOME=/work
USER 10001:10001
WORKDIR /work
ENTRYPOINT ["ptune"]
CMD ["--help"]

FROM base AS page
COPY --from=page-build /opt/ptune /opt/ptune
# /tmp is the one place that is written to, so the rest may be read-only.
ENV HOME=/tmp PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
EXPOSE 7860
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s CMD ["python", "-c", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 7860, timeout=2); c.request('GET', '/'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["ptune", "chat", "--host", "0.0.0.0"]
CMD ["http://server:8000"]

FROM base AS serve
COPY --from=serve-build /opt/ptune /opt/ptune
# Only adapters that are uploaded pass through /tmp; all else may be read-only.
ENV HOME=/tmp PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
EXPOSE 8000
# Not urllib, which would ask a proxy that the environment names.
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s CMD ["python", "-c", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8000, timeout=2); c.request('GET', '/ready'); raise SystemExit(c.getresponse().status != 200)"]
STOPSIGNAL SIGTERM
# Options of `ptune serve` are added to these.
ENTRYPOINT ["ptune", "serve", "/bundle", "--host", "0.0.0.0", "--no-ui"]
