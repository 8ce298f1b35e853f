# The image of credlet: one static binary, the roots that it trusts, and what glibc reads to resolve names.
#
#     docker build --build-arg CREDLET_COMMIT="$(git rev-parse --short=12 HEAD)" --tag credlet .
#
# --platform linux/arm64 on amd64, or the other way round, compiles across: nothing is emulated.

# Debian 12 with Rust. The tag moves: RUST_IMAGE=rust:1.95-slim-bookworm@sha256:… pins it, for a build that can be repeated.
ARG RUST_IMAGE=rust:1.95-slim-bookworm
FROM --platform=$BUILDPLATFORM $RUST_IMAGE AS build
WORKDIR /src

# Kernels for arm64 have pages of 4, 16 or 64 KiB: an allocator made for the largest runs on all of them.
ARG TARGETARCH
RUN case "$TARGETARCH" in \
        amd64) echo "cpu=x86_64 gcc=gcc-x86-64-linux-gnu" ;; \
        arm64) echo "cpu=aarch64 gcc=gcc-aarch64-linux-gnu; export JEMALLOC_SYS_WITH_LG_PAGE=16" ;; \
        *) echo "not an architecture that this builds for: '$TARGETARCH'" >&2; exit 1 ;; \
    esac >/architecture
# What Debian's stable release has is the version. `packages` is a list of words.
# hadolint ignore=DL3008,SC2086,SC2154
RUN . /architecture \
    && packages="libcap2-bin make" \
    && if [ "$TARGETARCH" != "$(dpkg --print-architecture)" ]; then \
        rustup target add "$cpu-unknown-linux-gnu" && packages="$packages $gcc libc6-dev-$TARGETARCH-cross"; \
    fi \
    && apt-get update \
    && apt-get install -y --no-install-recommends $packages \
    && rm -rf /var/lib/apt/lists/*

COPY . .
ARG CREDLET_COMMIT=unknown
# Writes the list of crates into the binary, where scanners of vulnerabilities look for it.
ARG CARGO_AUDITABLE_VERSION=0.7.7
# Cargo goes by the time of files, which a reproducible build sets all alike: touched, they are new to the kept target folder.
# hadolint ignore=SC2154
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/usr/local/tools \
    --mount=type=cache,target=/src/target \
    . /architecture \
    && cargo install --quiet --locked --root /usr/local/tools "cargo-auditable@$CARGO_AUDITABLE_VERSION" \
    && target="$cpu-unknown-linux-gnu" \
    && find src build.rs -type f -exec touch {} + \
    && PATH="/usr/local/tools/bin:$PATH" RUSTFLAGS="-C target-feature=+crt-static" \
        cargo auditable build --release --locked --no-default-features --bin credlet \
        --target "$target" --config "target.$target.linker='$cpu-linux-gnu-gcc'" \
    && install -D "target/$target/release/credlet" /image/credlet

# What licences ask for: the texts as each crate brings them, and those of Debian for what is linked in and copied.
WORKDIR /image/licenses
# `crates` is a list of words.
# hadolint ignore=SC2086,SC2154,DL3003,DL4006
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    . /architecture \
    && cp /src/LICENSE credlet.txt \
    && crates=$(cargo tree --manifest-path /src/Cargo.toml --locked --no-default-features --edges normal \
        --target "$cpu-unknown-linux-gnu" --prefix none --format '{p}' | sed -E '/\//d; s/^([^ ]+) v([^ ]+).*/\1-\2/' | sort -u) \
    && cd /usr/local/cargo/registry/src/*/ \
    && find $crates -maxdepth 2 -type f -iregex '.*/\(licen[cs]e\|copying\|copyright\|notice\)[^/]*' ! -name '*.rs' \
        -exec tail -vn +1 {} + >/image/licenses/crates.txt \
    && cd /usr/share/doc \
    && tail -vn +1 libc6-dev/copyright libgcc-12-dev/copyright ca-certificates/copyright ../common-licenses/LGPL-2.1 \
        >/image/licenses/debian.txt

# The capability lets a uid that is not root bind port 80, once the container's bounding set has it. The other two paths are
# those of the EKS Pod Identity Agent's image, and so is root's home, where its hybrid DaemonSets mount credentials: a runtime takes
# HOME from this file. Of the sources of names only those two are built into a static glibc.
WORKDIR /image
ARG SOURCE_DATE_EPOCH=0
RUN setcap cap_net_bind_service=+ep credlet \
    && ln -s credlet go-runner \
    && ln -s credlet eks-pod-identity-agent \
    && mkdir etc \
    && echo "hosts: files dns" >etc/nsswitch.conf \
    && echo "root:x:0:0:root:/root:/sbin/nologin" >etc/passwd \
    && echo "credlet:x:17023:17023:credlet:/:/sbin/nologin" >>etc/passwd \
    && echo "root:x:0:" >etc/group \
    && echo "credlet:x:17023:" >>etc/group \
    && find . -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +

# No USER: init containers need root, and everything else sets its uid.
FROM scratch
# `kubectl exec … -- credlet` finds the binary.
ENV PATH=/
COPY --from=build /image/ /
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
ARG CREDLET_COMMIT=unknown
LABEL org.opencontainers.image.title="credlet" \
    org.opencontainers.image.description="The AWS credential agent of a Kubernetes node" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="0.1.0" \
    org.opencontainers.image.revision="$CREDLET_COMMIT"
ENTRYPOINT ["/credlet"]
CMD ["server"]
