# skopeo as the steps call it; it trusts what /etc/docker/certs.d says.

# Not by REGISTRY_AUTH_FILE: registries read variables that begin with REGISTRY_ as their own configuration.
AUTH=$T/skopeo-auth.json

# No signature policy: the steps are about transport.
copy() { skopeo --insecure-policy copy --quiet --authfile "$AUTH" "$@"; }

log_in() { skopeo login --authfile "$AUTH" --username admin --password-stdin "$REGISTRY" <<<"${1:-$PASSWORD}"; }

# push LAYOUT REPOSITORY:TAG, pull REPOSITORY:TAG LAYOUT : every platform, the bytes of manifests unchanged.
push() { copy --all --preserve-digests "oci:$1:latest" "docker://$REGISTRY/$2"; }
pull() { copy --all --preserve-digests "docker://$REGISTRY/$1" "oci:$2:latest"; }

# remote_digest REPOSITORY:TAG
remote_digest() { skopeo inspect --authfile "$AUTH" --format '{{.Digest}}' "docker://$REGISTRY/$1"; }
