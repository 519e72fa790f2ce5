# Metrics: promtool accepts page and rules, a real Prometheus reads both addresses, every expression of the dashboard and of
# the alert rules returns data, and what has a name of distribution's has its labels and kind too.

DEBUG=127.0.0.1:5002
PAGE=http://$DEBUG/metrics
PROMETHEUS=http://127.0.0.1:9090
GRAFANA=$lib/../../../packaging/grafana

start_server "$W/home"
stop_server
boathouse_up() {
  export REGISTRY_HTTP_DEBUG_ADDR=$DEBUG REGISTRY_HTTP_DEBUG_PROMETHEUS_ENABLED=true
  export REGISTRY_HEALTH_FILECHECKERS_0_FILE=$W/down REGISTRY_HEALTH_FILECHECKERS_0_INTERVAL=1s
  exec "$BOATHOUSE" up --dir "$1"
}
start_server "$W/home"
"$BOATHOUSE" user add reader --pull 'team/*' --password-stdin --dir "$DIR" <<<another-password-for-tests >>"$W/user-add" 2>&1

# Something to count: an image there and back, a failed login, an upload that is open, a client without the authority.
make_image "$W/image" 500000
check "an account logs in" skopeo login --authfile "$W/auth.json" --username admin --password-stdin "$REGISTRY" <<<"$PASSWORD"
skopeo_copy() { skopeo --insecure-policy copy --quiet --authfile "$W/auth.json" "$@"; }
check "an image is pushed" skopeo_copy "oci:$W/image:latest" "docker://$REGISTRY/team/app:v1"
check "… and pulled" skopeo_copy "docker://$REGISTRY/team/app:v1" "oci:$W/pulled:latest"
same "a failed login" 401 "$(anonymous -u admin:wrong "$URL/token?service=boathouse")"
http -X POST -o /dev/null "$URL/v2/team/app/blobs/uploads/"
curl -s "$URL/v2/" >/dev/null || true
# … and an error of the server: a health check that fails for a while.
answers() { [[ $(anonymous "$URL/v2/") == "$1" ]]; }
touch "$W/down"
check "while a health check fails, requests are refused" wait_until 20 answers 503
same "… and the metrics say why" 1 "$(curl -sS --fail "$PAGE" | awk '$1 == "boathouse_health_checks_failing" { print $2 + 0 }')"
rm "$W/down"
check "… until it passes" wait_until 20 answers 401

# sample NAME : its value on the page.
sample() { curl -sS --fail "$PAGE" | awk -v name="$1" '$1 == name { print $2 + 0 }'; }

curl -sS --fail "$PAGE" >"$W/page"
check "promtool accepts the page" promtool check metrics <"$W/page"
check "promtool accepts the alert rules" promtool check rules "$GRAFANA/alerts.yml"
check "each alert fires in its situation" promtool test rules "$GRAFANA/alerts_test.yml"
same "manifests that were put" 1 "$(sample 'registry_http_requests_total{code="201",handler="manifest",method="put"}')"
same "the failed login" 1 "$(sample 'boathouse_refusals_total{reason="wrong_password"}')"
same "the open upload" 1 "$(sample boathouse_uploads_open)"
same "the client that does not trust the authority" 1 "$(sample boathouse_tls_handshakes_failed_total)"
same "the free bytes are those of the volume" "$(df -B1 --output=size "$DIR/data" | tail -n 1 | xargs)" \
  "$(curl -sS "$PAGE" | awk '$1 == "boathouse_store_size_bytes" { printf "%.0f", $2 }')"
documented=$(sed -n 's/^| `\([a-z0-9_]*\).*/\1/p' "$lib/../../../docs/metrics.md" | grep _ | sort)
same "a whole installation shows every documented metric" "$documented" \
  "$(sed -n 's/^# TYPE \([a-z0-9_]*\) .*/\1/p' "$W/page" | sort)"

same "nobody reads them on the main address" 401 "$(anonymous "$URL/metrics")"
same "… nor an account without the right" 403 "$(anonymous -u reader:another-password-for-tests "$URL/metrics")"
same "… the admin does" 200 "$(anonymous -u "admin:$PASSWORD" "$URL/metrics")"

# The real 3.1.2 beside it: what both have is the same.
mkdir "$W/other"
cat >"$W/registry.yml" <<YML
version: 0.1
storage: {filesystem: {rootdirectory: $W/other}}
http: {addr: "127.0.0.1:5006", debug: {addr: "127.0.0.1:5007", prometheus: {enabled: true}}}
YML
registry serve "$W/registry.yml" >"$W/registry.log" 2>&1 &
wait_until 20 curl -sS --fail -o /dev/null http://127.0.0.1:5006/v2/
curl -sS -o /dev/null http://127.0.0.1:5006/v2/team/app/tags/list
curl -sS -o /dev/null -X POST http://127.0.0.1:5006/v2/team/app/blobs/uploads/
curl -sS --fail http://127.0.0.1:5007/metrics >"$W/page-of-distribution"
# shapes FILE : metrics of distribution's with their kinds, and samples with the names of their labels.
shapes() {
  sed -n 's/^# TYPE \(registry_http_.*\)/\1/p' "$1"
  sed -n 's/^\(registry_http_[a-z_]*\){\(.*\)} .*/\1 \2/p' "$1" | while read -r name labels; do
    echo "$name" $(grep -o '[a-z]*=' <<<"$labels" | sort)
  done
}
shapes "$W/page" | sort -u >"$W/shapes"
shapes "$W/page-of-distribution" | sort -u >"$W/shapes-of-distribution"
check "there are metrics of distribution's" grep -q registry_http_requests_total "$W/shapes"
same "… with its kinds and labels" "$(cat "$W/shapes")" "$(comm -12 "$W/shapes" "$W/shapes-of-distribution")"

echo "$PASSWORD" | tr -d '\n' >"$W/password"
cp "$GRAFANA/alerts.yml" "$W/alerts.yml"
cat >"$W/prometheus.yml" <<YML
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [alerts.yml]
scrape_configs:
- job_name: boathouse
  static_configs: [{targets: ["$DEBUG"]}]
- job_name: main-address
  scheme: https
  basic_auth: {username: admin, password_file: $W/password}
  tls_config: {ca_file: $CA}
  static_configs: [{targets: ["$REGISTRY"]}]
YML
check "promtool accepts the configuration" promtool check config "$W/prometheus.yml"
prometheus --config.file="$W/prometheus.yml" --storage.tsdb.path="$W/series" --web.listen-address=127.0.0.1:9090 \
  >"$W/prometheus.log" 2>&1 &

# query EXPRESSION : how many series it returns.
query() { curl -sS --get --data-urlencode "query=$1" "$PROMETHEUS/api/v1/query" | jq -r '.data.result | length'; }
returns_data() { (($(query "$1") > 0)); }
wait_until 30 returns_data 'up{job="boathouse"} == 1' || { fail "Prometheus does not read the page" "$W/prometheus.log"; exit 1; }
check "Prometheus reads the debug address" wait_until 10 returns_data 'boathouse_ready{job="boathouse"} == 1'
check "… and the main address with an account" wait_until 10 returns_data 'boathouse_ready{job="main-address"} == 1'
# A rate needs two samples, and the prediction some more.
sleep 5

expressions=0
while IFS= read -r expression; do
  expression=${expression//'$__rate_interval'/30s}
  expression=${expression//'$instance'/.*}
  expressions=$((expressions + 1))
  wait_until 10 returns_data "$expression" || fail "the dashboard shows nothing for $expression"
done < <(jq -r '.panels[].targets[]?.expr' "$GRAFANA/dashboard.json")
check "all $expressions expressions of the dashboard return data" test "$expressions" -gt 40

curl -sS "$PROMETHEUS/api/v1/rules" >"$W/rules.json"
rules=0
while IFS= read -r expression; do
  # Without the comparison, which holds only when the alert fires.
  expression=$(sed -E 's/ (==|<|>) [0-9.e+]+$//' <<<"$expression")
  rules=$((rules + 1))
  wait_until 10 returns_data "$expression" || fail "the alert rule has no data for $expression"
done < <(jq -r '.data.groups[].rules[].query' "$W/rules.json")
same "all alert rules have data and are evaluated" "$(grep -c 'alert:' "$GRAFANA/alerts.yml")" "$rules"
unsound() { curl -sS "$PROMETHEUS/api/v1/rules" | jq -r '.data.groups[].rules[] | select(.health != "ok") | .name' | grep .; }
check "… without an error" wait_until 10 bash -c "$(declare -f unsound); PROMETHEUS=$PROMETHEUS; ! unsound"
firing() { curl -sS "$PROMETHEUS/api/v1/alerts" | jq -r '[.data.alerts[] | select(.state == "firing")] | length'; }
same "none fires where all is well" 0 "$(firing)"
