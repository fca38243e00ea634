{{/* Values that contradict each other: each sentence says what to change. */}}
{{- define "arriero.check" -}}
{{- $v := .Values -}}
{{- $config := $v.config -}}
{{- $replicas := include "arriero.minReplicas" . | int -}}
{{- if $v.autoscaling.enabled -}}{{- $replicas = max $replicas $v.autoscaling.maxReplicas -}}{{- end -}}
{{- $server := default (dict) $config.server -}}
{{- $store := default (dict) $config.store -}}

{{- if and $config (not $config.keys) (not $server.allow_anonymous) -}}
{{- fail "config has no keys, and a Service is not loopback: add `config.keys: [{name: team-a, key: env:TEAM_A_KEY}]`, or say `config.server.allow_anonymous: true`." -}}
{{- end -}}
{{- range $index, $key := default (list) $config.keys -}}
{{- include "arriero.checkSecret" (dict "path" (printf "config.keys[%d].key" $index) "value" $key.key) -}}
{{- $budget := default (dict) $key.budget -}}
{{- $hard := or $budget.hard (and $key.limits (ne (toString (dig "limits" "hard" true $key)) "false")) -}}
{{- if and $hard (gt $replicas 1) (not $store.redis) -}}
{{- fail (printf "key '%s' has hard limits, and %d replicas cannot keep them without shared state: set `redis.enabled: true` (or `redis.existingSecret`) and `config.store.redis: env:REDIS_URL`, or `replicaCount: 1`." $key.name $replicas) -}}
{{- end -}}
{{- end -}}
{{- range $index, $token := dig "admin" "tokens" (list) $config -}}
{{- include "arriero.checkSecret" (dict "path" (printf "config.admin.tokens[%d].token" $index) "value" $token.token) -}}
{{- end -}}
{{- range $name, $account := default (dict) $config.providers -}}
{{- range $word := list "api_key" "token" "secret_access_key" "session_token" "client_secret" -}}
{{- with get $account $word -}}
{{- include "arriero.checkSecret" (dict "path" (printf "config.providers.%s.%s" $name $word) "value" .) -}}
{{- end -}}
{{- end -}}
{{- $url := default "" $account.url | toString -}}
{{- $ours := hasPrefix (printf "http://%s-vllm:" (include "arriero.fullname" $)) $url -}}
{{- if and (hasPrefix "http://" $url) (not $ours) (not (hasPrefix "http://127.0.0.1" $url)) $v.networkPolicy.enabled (not $v.networkPolicy.egress.extra) -}}
{{- fail (printf "config.providers.%s.url is %s, and the NetworkPolicy lets calls out on 443 alone: name that server in `networkPolicy.egress.extra`, or set `networkPolicy.enabled: false`." $name $url) -}}
{{- end -}}
{{- end -}}

{{- if and $v.redis.enabled $v.redis.existingSecret -}}
{{- fail "redis.enabled starts a Redis and redis.existingSecret names another: choose one." -}}
{{- end -}}
{{- if and $config (or $v.redis.enabled $v.redis.existingSecret) (not $store.redis) -}}
{{- fail "there is a Redis that nothing uses: say `config.store.redis: env:REDIS_URL`, or turn redis off." -}}
{{- end -}}
{{- if and (eq (toString $store.redis) "env:REDIS_URL") (not $v.redis.enabled) (not $v.redis.existingSecret) (not $v.extraEnv) (not $v.secrets.env) -}}
{{- fail "config.store.redis is env:REDIS_URL, which nothing sets: set `redis.enabled: true`, or `redis.existingSecret`." -}}
{{- end -}}
{{- if and $v.postgresql.existingSecret (not $store.ledger) -}}
{{- fail "postgresql.existingSecret is set, but no ledger uses it: say `config.store.ledger: env:DATABASE_URL`." -}}
{{- end -}}

{{- if $v.ingress.enabled -}}
{{- if not $v.ingress.host -}}{{- fail "ingress.enabled needs a name to serve: set `ingress.host`." -}}{{- end -}}
{{- if and $v.ingress.tls.enabled (not $v.ingress.tls.secretName) (not $v.ingress.tls.certManagerIssuer) -}}
{{- fail "ingress.tls.enabled needs a certificate: set `ingress.tls.secretName` or `ingress.tls.certManagerIssuer`, or `ingress.tls.enabled: false` where TLS ends before the cluster." -}}
{{- end -}}
{{- end -}}
{{- if and $v.httpRoute.enabled (not $v.httpRoute.parentRefs) -}}
{{- fail "httpRoute.enabled needs a Gateway: set `httpRoute.parentRefs: [{name: …, namespace: …}]`." -}}
{{- end -}}
{{- if $v.autoscaling.enabled -}}
{{- if gt (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas) -}}
{{- fail (printf "autoscaling.minReplicas (%v) is above maxReplicas (%v): raise one or lower the other." $v.autoscaling.minReplicas $v.autoscaling.maxReplicas) -}}
{{- end -}}
{{- end -}}
{{- if $v.externalSecrets.enabled -}}
{{- if not $v.externalSecrets.storeRef.name -}}{{- fail "externalSecrets.enabled needs a store: set `externalSecrets.storeRef.name`." -}}{{- end -}}
{{- if not (or $v.externalSecrets.data $v.externalSecrets.dataFrom) -}}{{- fail "externalSecrets.enabled fetches nothing: set `externalSecrets.data` or `externalSecrets.dataFrom`." -}}{{- end -}}
{{- end -}}
{{- if and $v.metrics.serviceMonitor.enabled $v.metrics.podMonitor.enabled -}}
{{- fail "metrics.serviceMonitor and metrics.podMonitor would count everything twice: choose one." -}}
{{- end -}}
{{- if and $v.workloadIdentity.oci.enabled (not $v.workloadIdentity.oci.region) -}}
{{- fail "workloadIdentity.oci.enabled needs `workloadIdentity.oci.region`." -}}
{{- end -}}
{{- if and $v.vllm.enabled $v.vllm.offline (not $v.vllm.cache.existingClaim) -}}
{{- fail "vllm.offline downloads nothing, so the weights must be there: set `vllm.cache.existingClaim` to a volume that holds them." -}}
{{- end -}}
{{- end -}}

{{/* A ConfigMap is no place for a secret: {path, value} */}}
{{- define "arriero.checkSecret" -}}
{{- $value := toString .value -}}
{{- if not (or (hasPrefix "env:" $value) (hasPrefix "file:" $value)) -}}
{{- fail (printf "%s is written out, and the config lies in a ConfigMap that many may read: put it into a Secret, name that in `secrets.env` or `secrets.files`, and say `env:NAME` or `file:/etc/arriero/secrets/NAME`." .path) -}}
{{- end -}}
{{- end -}}
