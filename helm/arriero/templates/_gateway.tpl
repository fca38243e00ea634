{{/* What the gateway's container, its check and its test share. */}}
{{- define "arriero.keySecret" -}}
{{- default (printf "%s-key" (include "arriero.fullname" .)) .Values.auth.existingSecret -}}
{{- end -}}

{{- define "arriero.env" -}}
{{- if not .Values.config }}
- name: ARRIERO_KEY
  valueFrom: {secretKeyRef: {name: {{ include "arriero.keySecret" . }}, key: {{ .Values.auth.secretKey }}}}
{{- end }}
{{- if .Values.redis.enabled }}
- name: REDIS_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ include "arriero.fullname" . }}-redis, key: password}}
- name: REDIS_URL
  value: redis://:$(REDIS_PASSWORD)@{{ include "arriero.fullname" . }}-redis:6379/0
{{- else if .Values.redis.existingSecret }}
- name: REDIS_URL
  valueFrom: {secretKeyRef: {name: {{ .Values.redis.existingSecret }}, key: {{ .Values.redis.secretKey }}}}
{{- end }}
{{- with .Values.postgresql.existingSecret }}
- name: DATABASE_URL
  valueFrom: {secretKeyRef: {name: {{ . }}, key: {{ $.Values.postgresql.secretKey }}}}
{{- end }}
{{- if .Values.vllm.enabled }}
- name: VLLM_URL
  value: http://{{ include "arriero.fullname" . }}-vllm:8000/v1
- name: VLLM_MODEL
  value: {{ .Values.vllm.model | quote }}
{{- end }}
{{- if .Values.workloadIdentity.oci.enabled }}
- name: OCI_RESOURCE_PRINCIPAL_VERSION
  value: "2.2"
- name: OCI_RESOURCE_PRINCIPAL_REGION
  value: {{ .Values.workloadIdentity.oci.region | quote }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "arriero.envFrom" -}}
{{- $names := .Values.secrets.env -}}
{{- if and .Values.externalSecrets.enabled (eq .Values.externalSecrets.as "env") -}}
{{- $names = append $names (printf "%s-external" (include "arriero.fullname" .)) -}}
{{- end -}}
{{- range $names }}
- secretRef: {name: {{ . }}}
{{- end }}
{{- end -}}

{{- define "arriero.secretFiles" -}}
{{- $names := .Values.secrets.files -}}
{{- if and .Values.externalSecrets.enabled (eq .Values.externalSecrets.as "files") -}}
{{- $names = append $names (printf "%s-external" (include "arriero.fullname" .)) -}}
{{- end -}}
{{- join "," $names -}}
{{- end -}}

{{- define "arriero.mounts" -}}
{{- if .Values.config }}
- {name: config, mountPath: /etc/arriero/config, readOnly: true}
{{- end }}
{{- if include "arriero.secretFiles" . }}
- {name: secrets, mountPath: /etc/arriero/secrets, readOnly: true}
{{- end }}
- {name: scratch, mountPath: /var/lib/arriero}
- {name: tmp, mountPath: /tmp}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "arriero.volumes" -}}
{{- if .Values.config }}
- name: config
  configMap: {name: {{ include "arriero.fullname" . }}}
{{- end }}
{{- with include "arriero.secretFiles" . }}
- name: secrets
  projected:
    defaultMode: 0440
    sources:
      {{- range splitList "," . }}
      - secret: {name: {{ . }}}
      {{- end }}
{{- end }}
- name: scratch
  emptyDir: {sizeLimit: {{ .Values.scratchSize }}}
- name: tmp
  emptyDir: {sizeLimit: 64Mi}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* How long live calls may take to end: the config's own word, or its default. */}}
{{- define "arriero.graceSeconds" -}}
{{- $server := default (dict) .Values.config.server -}}
{{- ceil (default 600 $server.grace_s) | int -}}
{{- end -}}

{{- define "arriero.minReplicas" -}}
{{- ternary .Values.autoscaling.minReplicas .Values.replicaCount .Values.autoscaling.enabled -}}
{{- end -}}

{{- define "arriero.maxReplicas" -}}
{{- ternary .Values.autoscaling.maxReplicas .Values.replicaCount .Values.autoscaling.enabled -}}
{{- end -}}
