{{/* Values that contradict each other: each sentence says what to change. */}}
{{- define "arriero.check" -}}
{{- include "arriero.checkKeys" . -}}
{{- include "arriero.checkSecrets" . -}}
{{- include "arriero.checkReach" . -}}
{{- include "arriero.checkStores" . -}}
{{- include "arriero.checkEntrance" . -}}
{{- include "arriero.checkScaling" . -}}
{{- include "arriero.checkRest" . -}}
{{- include "arriero.checkSources" . -}}
{{- end -}}

{{/* Who may call, and limits that several pods can only keep together. */}}
{{- define "arriero.checkKeys" -}}
{{- $v := .Values -}}
{{- $config := $v.config -}}
{{- if and $config (not $config.keys) (not (dig "server" "allow_anonymous" false $config)) -}}
{{- fail "config has no keys, and a Service is not loopback: add `config.keys: [{name: team-a, key: env:TEAM_A_KEY}]`, or say `config.server.allow_anonymous: true`." -}}
{{- end -}}
{{- if and $config $v.auth.existingSecret -}}
{{- fail "auth.existingSecret is the one key of a release without `config`, and there is a config: put the key into `config.keys`, name its Secret in `secrets.env`, and leave auth.existingSecret out." -}}
{{- end -}}
{{- $replicas := include "arriero.maxReplicas" . | int -}}
{{- $limited := list -}}
{{- range default (list) $config.keys -}}{{- $limited = append $limited (dict "what" (printf "key '%s'" .name) "grant" .) -}}{{- end -}}
{{- range default (list) $config.teams -}}{{- $limited = append $limited (dict "what" (printf "team '%s'" .name) "grant" .) -}}{{- end -}}
{{- range $name, $route := default (dict) $config.routes -}}{{- $limited = append $limited (dict "what" (printf "route '%s'" $name) "grant" $route) -}}{{- end -}}
{{- range $limited -}}
{{- if and (or .grant.limits (dig "budget" "hard" false .grant)) (gt $replicas 1) (not (dig "store" "redis" "" $config)) -}}
{{- fail (printf "%s has hard limits, and %d replicas cannot keep them without shared state: set `redis.enabled: true` (or `redis.existingSecret`) and `config.store.redis: env:REDIS_URL`, or `replicaCount: 1`." .what $replicas) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A ConfigMap is no place for a secret. */}}
{{- define "arriero.checkSecrets" -}}
{{- $config := .Values.config -}}
{{- range $index, $key := default (list) $config.keys -}}
{{- include "arriero.checkSecret" (dict "path" (printf "config.keys[%d].key" $index) "value" $key.key) -}}
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
{{- end -}}
{{- range $name, $value := dig "telemetry" "headers" (dict) $config -}}
{{- include "arriero.checkSecret" (dict "path" (printf "config.telemetry.headers.%s" $name) "value" $value) -}}
{{- end -}}
{{- range $index, $value := dig "store" "peppers" (list) $config -}}
{{- include "arriero.checkSecret" (dict "path" (printf "config.store.peppers[%d]" $index) "value" $value) -}}
{{- end -}}
{{- range $word := list "redis" "ledger" -}}
{{- $url := dig "store" $word "" $config | toString -}}
{{- if contains "@" $url -}}
{{- include "arriero.checkSecret" (dict "path" (printf "config.store.%s" $word) "value" $url) -}}
{{- end -}}
{{- end -}}
{{- with .Values.tests.key -}}
{{- include "arriero.checkSecret" (dict "path" "tests.key" "value" .) -}}
{{- end -}}
{{- end -}}

{{/* {path, value} */}}
{{- define "arriero.checkSecret" -}}
{{- $value := toString .value -}}
{{- if not (or (hasPrefix "env:" $value) (hasPrefix "file:" $value)) -}}
{{- fail (printf "%s is written out, and the config lies in a ConfigMap that many may read: put it into a Secret, name that in `secrets.env` or `secrets.files`, and say `env:NAME` or `file:/etc/arriero/secrets/NAME`." .path) -}}
{{- end -}}
{{- end -}}

{{/* What the NetworkPolicy of this chart would keep the gateway from: all but 443. */}}
{{- define "arriero.checkReach" -}}
{{- $v := .Values -}}
{{- if and $v.networkPolicy.enabled (not $v.networkPolicy.egress.extra) -}}
{{- $remedy := "name that server in `networkPolicy.egress.extra`, or set `networkPolicy.enabled: false`." -}}
{{- $plain := list -}}
{{- range $name, $account := default (dict) $v.config.providers -}}
{{- $plain = append $plain (dict "path" (printf "config.providers.%s.url" $name) "url" (default "" $account.url | toString)) -}}
{{- end -}}
{{- $plain = append $plain (dict "path" "config.telemetry.otlp" "url" (dig "telemetry" "otlp" "" $v.config | toString)) -}}
{{- $ours := printf "http://%s-vllm:" (include "arriero.fullname" $) -}}
{{- range $plain -}}
{{- if and (hasPrefix "http://" .url) (not (hasPrefix $ours .url)) (not (hasPrefix "http://127.0.0.1" .url)) -}}
{{- fail (printf "%s is %s, and the NetworkPolicy lets calls out on 443 alone: %s" .path .url $remedy) -}}
{{- end -}}
{{- end -}}
{{- range $word := list "redis" "postgresql" -}}
{{- if (index $v $word).existingSecret -}}
{{- fail (printf "%s.existingSecret names a server that the NetworkPolicy does not let the gateway reach: %s" $word $remedy) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Redis, PostgreSQL, vLLM: what runs is used, what is used runs. */}}
{{- define "arriero.checkStores" -}}
{{- $v := .Values -}}
{{- $config := $v.config -}}
{{- $store := default (dict) $config.store -}}
{{- if and $v.redis.enabled $v.redis.existingSecret -}}
{{- fail "redis.enabled starts a Redis and redis.existingSecret names another: choose one." -}}
{{- end -}}
{{- if and $config (or $v.redis.enabled $v.redis.existingSecret) (not $store.redis) -}}
{{- fail "there is a Redis that nothing uses: say `config.store.redis: env:REDIS_URL`, or turn redis off." -}}
{{- end -}}
{{- $elsewhere := or $v.extraEnv $v.secrets.env $v.externalSecrets.enabled -}}
{{- if and (eq (toString $store.redis) "env:REDIS_URL") (not $v.redis.enabled) (not $v.redis.existingSecret) (not $elsewhere) -}}
{{- fail "config.store.redis is env:REDIS_URL, which nothing sets: set `redis.enabled: true`, or `redis.existingSecret`." -}}
{{- end -}}
{{- if and $v.postgresql.existingSecret (not $store.ledger) -}}
{{- fail "postgresql.existingSecret is set, but no ledger uses it: say `config.store.ledger: env:DATABASE_URL`." -}}
{{- end -}}
{{- if and (eq (toString $store.ledger) "env:DATABASE_URL") (not $v.postgresql.existingSecret) (not $elsewhere) -}}
{{- fail "config.store.ledger is env:DATABASE_URL, which nothing sets: set `postgresql.existingSecret`." -}}
{{- end -}}
{{- if and $v.vllm.enabled $v.vllm.offline (not $v.vllm.cache.existingClaim) -}}
{{- fail "vllm.offline downloads nothing, so the weights must be there: set `vllm.cache.existingClaim` to a volume that holds them." -}}
{{- end -}}
{{- $ours := printf "http://%s-vllm:8000/v1" (include "arriero.fullname" .) -}}
{{- if and $v.vllm.enabled $config -}}
{{- $urls := list -}}
{{- range default (dict) $config.providers -}}{{- $urls = append $urls (default "" .url | toString) -}}{{- end -}}
{{- if not (or (has $ours $urls) (has "env:VLLM_URL" $urls)) -}}
{{- fail (printf "vllm.enabled starts a vLLM that no account of the config uses: add `config.providers.own: {type: vllm, url: \"%s\"}` and a route to it." $ours) -}}
{{- end -}}
{{- end -}}
{{- if $v.externalSecrets.enabled -}}
{{- if not $v.externalSecrets.storeRef.name -}}{{- fail "externalSecrets.enabled needs a store: set `externalSecrets.storeRef.name`." -}}{{- end -}}
{{- if not (or $v.externalSecrets.data $v.externalSecrets.dataFrom) -}}{{- fail "externalSecrets.enabled fetches nothing: set `externalSecrets.data` or `externalSecrets.dataFrom`." -}}{{- end -}}
{{- end -}}
{{- end -}}

{{/* How calls come in. */}}
{{- define "arriero.checkEntrance" -}}
{{- $v := .Values -}}
{{- if $v.ingress.enabled -}}
{{- if not $v.ingress.host -}}{{- fail "ingress.enabled needs a name to serve: set `ingress.host`." -}}{{- end -}}
{{- if or (contains "/" $v.ingress.host) (contains ":" $v.ingress.host) -}}
{{- fail (printf "ingress.host is %s, which is more than a name: set it to the host alone, such as llama.example.com, and the path in `ingress.path`." $v.ingress.host) -}}
{{- end -}}
{{- if and $v.ingress.tls.enabled (not $v.ingress.tls.secretName) (not $v.ingress.tls.certManagerIssuer) -}}
{{- fail "ingress.tls.enabled needs a certificate: set `ingress.tls.secretName` or `ingress.tls.certManagerIssuer`, or `ingress.tls.enabled: false` where TLS ends before the cluster." -}}
{{- end -}}
{{- end -}}
{{- if and $v.httpRoute.enabled (not $v.httpRoute.parentRefs) -}}
{{- fail "httpRoute.enabled needs a Gateway: set `httpRoute.parentRefs: [{name: …, namespace: …}]`." -}}
{{- end -}}
{{- if and $v.service.nodePort (eq $v.service.type "ClusterIP") -}}
{{- fail "service.nodePort is for services of another type: set `service.type: NodePort` or `LoadBalancer`, or leave the port out." -}}
{{- end -}}
{{- if and (eq $v.service.clusterIP "None") (ne $v.service.type "ClusterIP") -}}
{{- fail (printf "service.clusterIP: None is a service without an address, and one of type %s has one: choose." $v.service.type) -}}
{{- end -}}
{{- end -}}

{{/* How many pods, and who may take one away. */}}
{{- define "arriero.checkScaling" -}}
{{- $v := .Values -}}
{{- $a := $v.autoscaling -}}
{{- if $a.enabled -}}
{{- if gt (int $a.minReplicas) (int $a.maxReplicas) -}}
{{- fail (printf "autoscaling.minReplicas (%v) is above maxReplicas (%v): raise one or lower the other." $a.minReplicas $a.maxReplicas) -}}
{{- end -}}
{{- if and $a.keda.enabled (eq $a.metric "cpu") -}}
{{- fail "autoscaling.keda asks Prometheus, and autoscaling.metric is cpu, which an HPA measures by itself: set `autoscaling.metric: in_flight` or `loop_lag`, or leave KEDA out." -}}
{{- end -}}
{{- if and (eq $a.metric "cpu") (not (dig "requests" "cpu" "" $v.resources)) -}}
{{- fail "autoscaling.metric is cpu, a share of what is requested, and nothing is: set `resources.requests.cpu`." -}}
{{- end -}}
{{- end -}}
{{- if and $v.podDisruptionBudget.enabled (has (toString $v.podDisruptionBudget.maxUnavailable) (list "0" "0%")) -}}
{{- fail "podDisruptionBudget.maxUnavailable: 0 lets no node ever be drained: set it to 1, or `podDisruptionBudget.enabled: false`." -}}
{{- end -}}
{{- end -}}

{{- define "arriero.checkRest" -}}
{{- $v := .Values -}}
{{- if and $v.metrics.serviceMonitor.enabled $v.metrics.podMonitor.enabled -}}
{{- fail "metrics.serviceMonitor and metrics.podMonitor would count everything twice: choose one." -}}
{{- end -}}
{{- if and $v.workloadIdentity.oci.enabled (not $v.workloadIdentity.oci.region) -}}
{{- fail "workloadIdentity.oci.enabled needs `workloadIdentity.oci.region`." -}}
{{- end -}}
{{- range $cloud, $word := dict "aws" "roleArn" "azure" "clientId" "google" "serviceAccount" -}}
{{- if and (get (get $v.workloadIdentity $cloud) $word) (not $v.serviceAccount.create) -}}
{{- fail (printf "workloadIdentity.%s.%s is an annotation of the ServiceAccount, and serviceAccount.create is false: annotate %s yourself and leave workloadIdentity.%s out, or let the chart create it." $cloud $word (default "default" $v.serviceAccount.name) $cloud) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What the config reads from the environment and from files: somebody must put it there. */}}
{{- define "arriero.checkSources" -}}
{{- $v := .Values -}}
{{- $text := toJson $v.config -}}
{{- $external := ternary $v.externalSecrets.as "" $v.externalSecrets.enabled -}}
{{- $missing := list -}}
{{- range regexFindAll "\"env:[A-Za-z0-9_]+\"" $text -1 -}}
{{- $name := trimAll "\"" . -}}
{{- if not (has $name (list "env:REDIS_URL" "env:DATABASE_URL" "env:VLLM_URL" "env:VLLM_MODEL")) -}}
{{- $missing = append $missing $name -}}
{{- end -}}
{{- end -}}
{{- if and $missing (not (or $v.secrets.env $v.extraEnv (eq $external "env"))) -}}
{{- fail (printf "nothing sets what the config reads, %s: name the Secret that holds it in `secrets.env`, or set it in `extraEnv`." (uniq $missing | join ", ")) -}}
{{- end -}}
{{- $missing = regexFindAll "\"file:/etc/arriero/secrets/[^\"]+\"" $text -1 -}}
{{- if and $missing (not (or $v.secrets.files $v.extraVolumeMounts (eq $external "files"))) -}}
{{- fail (printf "no Secret is mounted where the config reads, %s: name the one that holds it in `secrets.files`." (uniq $missing | join ", " | replace "\"" "")) -}}
{{- end -}}
{{- end -}}
