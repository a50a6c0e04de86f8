# `preble serve` without an engine: the `sim` backend, or with --connect in front of servers that run already.
FROM python:3.13-slim AS build
RUN apt-get update \
    && apt-get install --no-install-recommends --yes gcc=4:* libc6-dev=2.* \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY preble ./preble
RUN python -m venv /opt/preble && /opt/preble/bin/pip install --no-cache-dir ".[serve,openai,grammar]"

FROM python:3.13-slim
RUN useradd --system --uid 10001 --user-group --create-home preble
COPY --from=build /opt/preble /opt/preble
USER 10001
WORKDIR /home/preble
ENV PATH=/opt/preble/bin:$PATH PYTHONUNBUFFERED=1
EXPOSE 8000
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["preble", "serve", "--host", "0.0.0.0"]
CMD ["--help"]
