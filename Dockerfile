# Built alike by docker, buildah and podman, with or without BuildKit.
#   EXTRAS=litellm    the fuller image, which reaches all that litellm reaches
#   PYTHON_IMAGE      pin it by digest in your pipeline: python:3.13-slim@sha256:…
ARG PYTHON_IMAGE=python:3.13-slim

FROM ${PYTHON_IMAGE} AS build
ARG EXTRAS=""
WORKDIR /src
RUN python -m venv /tools && python -m venv --without-pip /opt/arriero
COPY requirements-image.lock requirements-litellm.lock ./
RUN for lock in image ${EXTRAS}; do \
        /tools/bin/pip --python /opt/arriero/bin/python install --no-cache-dir --disable-pip-version-check \
            --require-hashes --only-binary=:all: -r "requirements-${lock}.lock" || exit 1; \
    done
COPY pyproject.toml README.md ./
COPY gateway gateway
COPY providers providers
COPY policies policies
COPY sandbox sandbox
COPY .ci/sbom.py /tools/sbom.py
# Our own wheel is built by the locked setuptools, which then goes; so do the tests that packages bring along, and what
# botocore knows of AWS's services but for those that give out credentials: Bedrock is spoken to without it.
RUN /tools/bin/pip --python /opt/arriero/bin/python install --no-cache-dir --disable-pip-version-check \
        --no-deps --no-build-isolation . \
    && /tools/bin/pip --python /opt/arriero/bin/python uninstall --yes setuptools \
    && find /opt/arriero -depth -type d \( -name tests -o -name include \) -exec rm -rf {} + \
    && find /opt/arriero -path '*/botocore/data/*' -prune -type d \
        ! -name sts ! -name sso ! -name sso-oidc ! -name signin -exec rm -rf {} + \
    && /opt/arriero/bin/python /tools/sbom.py > /opt/arriero/sbom.cdx.json \
    && chmod -R g=u,o-w /opt/arriero

# hadolint ignore=DL3006
FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="Arriero" \
      org.opencontainers.image.description="One OpenAI-compatible API in front of Llama on every cloud" \
      org.opencontainers.image.licenses="Apache-2.0"
# pip is of no use in what runs; nobody may become somebody else.
RUN python -c "import shutil, site, sysconfig; \
        shutil.rmtree(sysconfig.get_path('stdlib') + '/ensurepip', ignore_errors=True); \
        [shutil.rmtree(f'{d}/pip', ignore_errors=True) for d in site.getsitepackages()]" \
    && find / -xdev -perm /6000 -type f -exec chmod a-s {} + \
    && install -d -o 10001 -g 0 -m 0770 /var/lib/arriero
COPY --from=build /opt/arriero /opt/arriero
ENV PATH=/opt/arriero/bin:$PATH \
    PYTHONSAFEPATH=1 PYTHONNOUSERSITE=1 PYTHONFAULTHANDLER=1 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    ARRIERO_HOST=0.0.0.0
WORKDIR /var/lib/arriero
USER 10001:0
EXPOSE 8080 8081
HEALTHCHECK --interval=15s --timeout=3s --start-period=20s CMD ["python", "-m", "gateway.probe"]
ENTRYPOINT ["arriero"]
CMD ["serve"]
