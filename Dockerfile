# syntax=docker/dockerfile:1
# OpenAI's API over a River engine, on a CPU: docs/container.md
#   docker build -t river-trt .
#   docker run --rm -p 127.0.0.1:8000:8000 -v "$PWD/engine:/engine:ro" river-trt

FROM python:3.12-slim AS wheel
RUN apt-get update && apt-get install -y --no-install-recommends g++ \
 && rm -rf /var/lib/apt/lists/*
COPY . /source
RUN RIVER_TRT_PREBUILT=1 pip wheel --no-cache-dir --no-deps --wheel-dir /wheel /source

FROM python:3.12-slim
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    pip install --no-cache-dir "$(echo /wheel/river_trt-*.whl)[serve]"
RUN useradd --create-home --uid 1000 river
USER river
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD ["python", "-c", \
    "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/ready', timeout=5)"]
ENTRYPOINT ["river-trt"]
CMD ["serve", "/engine", "--host", "0.0.0.0"]
