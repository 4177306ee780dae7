# One image for every role; the command says which: worker --provider openai, usage, admin, migrate.
FROM python:3.11-slim AS build
WORKDIR /src
COPY requirements requirements
# As on a developer's machine, with the lock of the roles. Bytecode is written now: nobody can write it in the container.
RUN PIP_NO_CACHE_DIR=1 python requirements/install.py --venv /opt/fleet --compile runtime
COPY pyproject.toml README.md LICENSE ./
COPY contracts contracts
COPY runtime runtime
COPY migrations migrations
COPY workers workers
COPY admin_api admin_api
COPY fleet fleet
RUN /opt/fleet/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /dist . \
    && /opt/fleet/bin/pip install --no-cache-dir --no-deps --no-index /dist/*.whl \
    && /opt/fleet/bin/pip check \
    && /opt/fleet/bin/pip uninstall --yes pip setuptools

FROM python:3.11-slim
RUN groupadd --system --gid 10001 fleet \
    && useradd --system --uid 10001 --gid fleet --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin fleet
COPY --from=build /opt/fleet /opt/fleet
ENV PATH=/opt/fleet/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    LLM_HTTP_HOST=0.0.0.0 \
    LLM_HTTP_PORT=8080
USER 10001:10001
WORKDIR /tmp
EXPOSE 8080
STOPSIGNAL SIGTERM
ENTRYPOINT ["fleet"]
CMD ["--help"]
