# Lists longer than a page: 200 tags, 30 in a page.

MANY_TAGS=$(printf 't%03d ' {1..200})
MANY_TAGS=${MANY_TAGS% }
PAGE=30
PAGES=7

# short_pages : restarts the server with pages of lists so short that every client must follow them.
short_pages() {
  stop_server
  sed -Ei "s/^( *)#list_page: .*/\1list_page: $PAGE/" "$DIR/boathouse.yml"
  check "the server's pages are short" grep -q "^ *list_page: $PAGE\$" "$DIR/boathouse.yml"
  start_server "$DIR"
}

# push_many_tags LAYOUT : the image, as team/many with its 200 tags. Not by the client under test: one request per tag.
push_many_tags() {
  local manifest digest
  manifest=$(digest_of "$1")
  manifest=$1/blobs/sha256/${manifest#sha256:}
  for digest in $(jq -r '.config.digest, .layers[].digest' "$manifest"); do
    http -o "$W/many" -X POST "$URL/v2/team/many/blobs/uploads/?digest=$digest" \
      -H 'Content-Type: application/octet-stream' --data-binary "@$1/blobs/sha256/${digest#sha256:}"
  done
  http -o "$W/many" -X PUT -H "Content-Type: $(jq -r .mediaType "$manifest")" --data-binary "@$manifest" \
    "$URL/v2/team/many/manifests/t[001-200]"
}

# lists_many_tags COMMAND… : it prints one tag in a line, all 200, and the server was asked for every page.
lists_many_tags() {
  mark_log
  same "200 tags are listed" "$MANY_TAGS" "$("$@" | sort | paste -sd ' ')"
  check "… page by page" was_asked "$PAGES" tags 200 /v2/team/many/tags/list
}
