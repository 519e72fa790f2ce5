# A page of docs, run as it stands: each `sh` block in its order; a `text` block right after it is what it prints.

# section HEADING : runs the blocks of a section of $PAGE.
section() {
  local number kind='' text file=$W/page count=0 line
  rm -rf "$file"
  mkdir "$file"
  echo "$1" >>"$W/sections"
  while IFS= read -r line; do
    case $line in
      '```sh') kind=sh number=$((++count)); : >"$file/$number.sh" ;;
      '```text') kind=txt; : >"$file/$number.txt" ;;
      '```') kind='' ;;
      *) [[ -z $kind ]] || printf '%s\n' "$line" >>"$file/$number.$kind" ;;
    esac
  done < <(awk -v heading="## $1" '/^## /{ inside = $0 == heading } inside' "$PAGE")
  ((count)) || { fail "the page has no section $1"; return; }
  [[ -z $kind ]] || { fail "section $1 has a block that does not end"; return; }
  for ((number = 1; number <= count; number++)); do
    text=$(head -n 1 "$file/$number.sh")
    check "$1: $text" bash -euo pipefail "$file/$number.sh"
    cp "$T/output" "$file/printed"
    [[ ! -e $file/$number.txt ]] || check "… prints what the page says" prints "$file/$number.txt" "$file/printed"
  done
}

# prints EXPECTED ACTUAL : a line of … alone in EXPECTED stands for any number of lines, … within a line for any text.
prints() {
  local pattern
  pattern=$(sed 's/[][*?\\]/\\&/g; s/^…$/<lines>/; s/…/*/g' "$1" | sed -z 's/<lines>\n/*/g'; echo end)
  # shellcheck disable=SC2053 # it is a pattern
  [[ $(cat "$2"; echo end) == $pattern ]] || diff "$1" "$2"
}

# whole_page_was_run : every section of $PAGE that has commands was run.
whole_page_was_run() {
  diff <(awk '/^## /{ heading = substr($0, 4) } /^```sh$/ && !seen[heading]++ { print heading }' "$PAGE" | sort) \
    <(sort -u "$W/sections")
}
