FROM python:3.12-slim

ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore

RUN useradd --create-home --uid 1000 skygloss \
    && install --directory --owner=skygloss --group=skygloss /data

WORKDIR /app

# The dependencies first: this layer changes only with the lock.
COPY requirements.txt .
RUN pip install --require-hashes --no-deps -r requirements.txt

# "and-cuda" adds NVIDIA's libraries, at the version TensorFlow was locked at.
ARG TENSORFLOW_EXTRA=""
RUN if [ -n "$TENSORFLOW_EXTRA" ]; then \
        version=$(python -c 'from importlib.metadata import version as v; print(v("tensorflow"))') \
        && pip install "tensorflow[$TENSORFLOW_EXTRA]==$version"; \
    fi

COPY . .
RUN pip install --no-deps --editable .

USER skygloss
ENV SKYGLOSS_HOME=/data
VOLUME /data
EXPOSE 8000
CMD ["skygloss", "serve", "--host", "0.0.0.0", "--port", "8000"]
