# Images made by hand, without any network: OCI layouts of random bytes.

# add_blob LAYOUT MEDIA_TYPE FILE : stores FILE in the layout and prints its descriptor.
add_blob() {
  local hex
  hex=$(sha256 "$3")
  mkdir -p "$1/blobs/sha256"
  cp "$3" "$1/blobs/sha256/$hex"
  jq -nc --arg type "$2" --arg digest "sha256:$hex" --argjson size "$(stat -c %s "$3")" \
    '{mediaType: $type, digest: $digest, size: $size}'
}

# add_image LAYOUT ARCHITECTURE BYTES : one layer with a file of random bytes; prints the manifest's descriptor.
add_image() {
  local layout=$1 architecture=$2 work layer config
  work=$(mktemp -d "$T/image.XXXXXX")
  mkdir "$work/root"
  head -c "$3" /dev/urandom >"$work/root/data"
  tar -C "$work/root" -cf "$work/layer.tar" .
  gzip -n1 <"$work/layer.tar" >"$work/layer.tar.gz"
  layer=$(add_blob "$layout" application/vnd.oci.image.layer.v1.tar+gzip "$work/layer.tar.gz")
  jq -nc --arg architecture "$architecture" --arg diff "sha256:$(sha256 "$work/layer.tar")" \
    '{architecture: $architecture, os: "linux", config: {}, rootfs: {type: "layers", diff_ids: [$diff]}}' >"$work/config"
  config=$(add_blob "$layout" application/vnd.oci.image.config.v1+json "$work/config")
  jq -nc --argjson config "$config" --argjson layer "$layer" \
    '{schemaVersion: 2, mediaType: "application/vnd.oci.image.manifest.v1+json", config: $config, layers: [$layer]}' \
    >"$work/manifest"
  add_blob "$layout" application/vnd.oci.image.manifest.v1+json "$work/manifest" |
    jq -c --arg architecture "$architecture" '. + {platform: {architecture: $architecture, os: "linux"}}'
  rm -r "$work"
}

# name_latest LAYOUT DESCRIPTOR : completes the layout; `oci:LAYOUT:latest` is then what the descriptor points at.
name_latest() {
  echo '{"imageLayoutVersion":"1.0.0"}' >"$1/oci-layout"
  jq -c '{schemaVersion: 2, manifests: [. + {annotations: {"org.opencontainers.image.ref.name": "latest"}}]}' \
    <<<"$2" >"$1/index.json"
}

# make_image LAYOUT [BYTES] : a layout with one image.
make_image() { name_latest "$1" "$(add_image "$1" amd64 "${2:-3000000}")"; }

# make_index LAYOUT : a layout with an index of two architectures.
make_index() {
  local children
  children=$(add_image "$1" amd64 100000; add_image "$1" arm64 100000)
  jq -sc '{schemaVersion: 2, mediaType: "application/vnd.oci.image.index.v1+json", manifests: .}' \
    <<<"$children" >"$T/index"
  name_latest "$1" "$(add_blob "$1" application/vnd.oci.image.index.v1+json "$T/index")"
}

# digest_of LAYOUT : the digest of what is named latest.
digest_of() { jq -r '.manifests[0].digest' "$1/index.json"; }

# same_content NAME LAYOUT LAYOUT : ok when both hold the same blobs and every blob is what its name says.
same_content() {
  check "$1: the same blobs" diff -r "$2/blobs" "$3/blobs"
  check "$1: bytes match their digests" \
    bash -c 'cd "$1/blobs/sha256" && ls | sed "s/.*/&  &/" | sha256sum --check --strict' - "$3"
}
