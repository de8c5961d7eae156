# Two images of one source:
#   docker build --target train -t ptune-train .     fine-tunes and exports
#   docker build --target serve -t ptune-serve .     serves a bundle; no torch inside
#   docker run -p 8000:8000 -v "$PWD/bundles/NAME:/bundle:ro" ptune-serve
FROM python:3.12-slim AS source
WORKDIR /src
COPY pyproject.toml setup.py README.md LICENSE ./
COPY ptune ptune
COPY serve serve
COPY recipes recipes

FROM source AS train
# Empty: the default wheel, which brings CUDA. Without a GPU pass the CPU index that pytorch.org/get-started names.
ARG TORCH_INDEX=
RUN pip install --no-cache-dir ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} torch \
    && pip install --no-cache-dir '.[all]'
RUN useradd --create-home ptune && mkdir /work && chown ptune /work
USER ptune
WORKDIR /work
ENTRYPOINT ["ptune"]
CMD ["--help"]

FROM source AS serve
RUN pip install --no-cache-dir '.[serve]' && rm -rf /src
RUN useradd --create-home ptune
USER ptune
WORKDIR /home/ptune
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/ready', timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["ptune", "serve"]
CMD ["/bundle", "--host", "0.0.0.0", "--no-ui"]
