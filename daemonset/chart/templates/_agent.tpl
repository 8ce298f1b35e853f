{{/* The agent's container. Arguments: root, variant. */}}
{{- define "credlet.agent" -}}
{{- $values := .root.Values -}}
name: credlet
image: {{ include "credlet.image" .root }}
imagePullPolicy: {{ $values.image.pullPolicy }}
command: [/credlet]
args:
  - server
  {{- with $values.agent.extraArgs }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
env:
  {{- include "credlet.flags" . | trim | nindent 2 }}
  {{- include "credlet.environment" . | nindent 2 }}
securityContext:
  {{- include "credlet.confined" (list "NET_BIND_SERVICE") | nindent 2 }}
  {{- $uid := include "credlet.uid" . }}
  {{- if eq $uid "0" }}
  # The file with the node's credentials is root's, 0600.
  {{- else }}
  # A user of no other image: what runs as somebody else on the node can't signal or trace it.
  {{- end }}
  runAsUser: {{ $uid }}
  runAsGroup: {{ $uid }}
  runAsNonRoot: {{ ne $uid "0" }}
  {{- with .variant.seLinuxOptions }}
  seLinuxOptions:
    {{- toYaml . | nindent 4 }}
  {{- end }}
# Both ask this very process, over its own socket: a port of the node may be answered by another agent.
readinessProbe:
  exec:
    command: [/credlet, status, --ready]
  periodSeconds: 5
  timeoutSeconds: 5
# Depends on no network and no load; where the socket is missing, the probe port answers. No startup probe: the agent listens within milliseconds.
livenessProbe:
  exec:
    command: [/credlet, status, --healthy]
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
resources:
  {{- toYaml $values.resources | nindent 2 }}
volumeMounts:
  {{- include "credlet.mounts" . | nindent 2 }}
{{- end }}

{{/* Whom the agent runs as. Arguments: root, variant. */}}
{{- define "credlet.uid" -}}
{{ empty .variant.credentialsFolder | ternary 17023 0 }}
{{- end }}

{{/* What every container is held to. Argument: the capabilities that it keeps. */}}
{{- define "credlet.confined" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
  add: [{{ join ", " . }}]
{{- end }}

{{/* As variables, not as arguments: what is run beside the server by `kubectl exec`, such as `credlet check`, so has them too. */}}
{{- define "credlet.flags" -}}
{{- $values := .root.Values -}}
{{- $agent := $values.agent -}}
{{- $flags := dict
  "CLUSTER_NAME" $values.clusterName
  "BIND_HOSTS" (join "," $agent.bindHosts)
  "PORT" $agent.port
  "PROBE_PORT" $agent.probePort
  "METRICS_PORT" (ternary $values.metrics.port 0 $values.metrics.enabled)
  "METRICS_ADDRESS" $values.metrics.address
  "ISSUER" (join "," $agent.issuers)
  "AUDIENCE" (join "," $agent.audiences)
  "TOKEN_VERIFICATION" $agent.tokenVerification
  "SOURCE_CHECK" $agent.sourceCheck
  "SOURCE_BINDING" $agent.sourceBinding
  "POD_WATCH" (ternary "true" "" $values.podWatch)
  "POD_RATE" $agent.podRate
  "MAX_CACHE_SIZE" $agent.maxCacheSize
  "MAX_SERVICE_QPS" $agent.maxServiceQps
  "MAX_CREDENTIAL_RETENTION_BEFORE_RENEWAL" $agent.maxCredentialRetentionBeforeRenewal
  "ENDPOINT" $agent.endpoint
  "POLICY" (ternary "/etc/credlet/policy/policy.yaml" "" (ne (include "credlet.policyMap" .root) ""))
  "SERVICE_ACCOUNT_ROLES" (ternary "true" "" $values.serviceAccountRoles)
  "ROTATE_CREDENTIALS" (ternary "" "true" (empty .variant.credentialsFolder))
  "HANDOVER_DIR" (ternary (include "credlet.handoverMount" .) "" $values.handover.enabled)
  "VERBOSITY" $agent.verbosity
  "LOG_FORMAT" $agent.logFormat }}
{{- range $flag, $value := $flags }}
{{- /* Numbers of a YAML file are floats here: 1000000 would become 1e+06. */}}
{{- $text := kindIs "float64" $value | ternary (int64 $value | toString) (toString $value) }}
{{- if not (or (kindIs "invalid" $value) (eq $text "")) }}
- name: CREDLET_{{ $flag }}
  value: {{ $text | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/* Refuses what the agent refuses, and no schema can compare: its start would fail on one node after the other. */}}
{{- define "credlet.checkPorts" -}}
{{- $ports := dict "agent.port" .Values.agent.port "agent.probePort" .Values.agent.probePort }}
{{- if .Values.metrics.enabled }}
{{- $_ := set $ports "metrics.port" .Values.metrics.port }}
{{- end }}
{{- $taken := dict }}
{{- range $key, $port := $ports }}
{{- $number := int $port | toString }}
{{- with get $taken $number }}
{{- fail (printf "%s: %s is the port of %s already" $key $number .) }}
{{- end }}
{{- $_ := set $taken $number $key }}
{{- end }}
{{- end }}

{{- define "credlet.environment" -}}
- name: NODE_NAME
  valueFrom:
    fieldRef:
      fieldPath: spec.nodeName
- name: AWS_REGION
  value: {{ .root.Values.region }}
{{- if include "credlet.caBundle" .root }}
- name: AWS_CA_BUNDLE
  value: {{ include "credlet.caBundleFile" .root }}
{{- end }}
{{- if .variant.credentialsFolder }}
- name: AWS_SHARED_CREDENTIALS_FILE
  value: /etc/credlet/aws/credentials
{{- end }}
{{- range $name, $value := .root.Values.env }}
- name: {{ $name }}
  {{- if kindIs "map" $value }}
  {{- toYaml $value | nindent 2 }}
  {{- else }}
  value: {{ $value | quote }}
  {{- end }}
{{- end }}
{{- end }}
