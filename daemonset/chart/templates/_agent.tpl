{{/* The agent's container. Arguments: root, variant. */}}
{{- define "credlet.agent" -}}
{{- $values := .root.Values -}}
name: credlet
image: {{ include "credlet.image" .root }}
imagePullPolicy: {{ $values.image.pullPolicy }}
command: [/credlet]
args:
  {{- include "credlet.arguments" . | nindent 2 }}
env:
  {{- include "credlet.environment" . | nindent 2 }}
securityContext:
  {{- include "credlet.confined" (list "NET_BIND_SERVICE") | nindent 2 }}
  {{- if .variant.credentialsFolder }}
  # The file with the node's credentials is root's, 0600.
  runAsUser: 0
  runAsGroup: 0
  runAsNonRoot: false
  {{- else }}
  # A user of no other image: what runs as somebody else on the node can't signal or trace it.
  runAsUser: 17023
  runAsGroup: 17023
  runAsNonRoot: true
  {{- end }}
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
# Depends on no network and no load. No startup probe: the agent listens within milliseconds.
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

{{/* What every container is held to. Argument: the capabilities that it keeps. */}}
{{- define "credlet.confined" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
  add: [{{ join ", " . }}]
{{- end }}

{{- define "credlet.arguments" -}}
{{- $values := .root.Values -}}
{{- $agent := $values.agent -}}
- server
{{- $single := dict
  "cluster-name" $values.clusterName
  "port" $agent.port
  "probe-port" $agent.probePort
  "metrics-port" (ternary $values.metrics.port 0 $values.metrics.enabled)
  "metrics-address" $values.metrics.address
  "token-verification" $agent.tokenVerification
  "source-check" $agent.sourceCheck
  "pod-rate" $agent.podRate
  "max-cache-size" $agent.maxCacheSize
  "max-service-qps" $agent.maxServiceQps
  "max-credential-retention-before-renewal" $agent.maxCredentialRetentionBeforeRenewal
  "endpoint" $agent.endpoint
  "policy" (ternary "/etc/credlet/policy/policy.yaml" "" (ne (include "credlet.policyMap" .root) ""))
  "verbosity" $agent.verbosity
  "log-format" $agent.logFormat }}
{{- range $flag, $value := $single }}
{{- /* Numbers of a YAML file are floats here: 1000000 would become 1e+06. */}}
{{- $text := kindIs "float64" $value | ternary (int64 $value | toString) (toString $value) }}
{{- if not (or (kindIs "invalid" $value) (eq $text "")) }}
- {{ printf "--%s=%s" $flag $text | quote }}
{{- end }}
{{- end }}
{{- range $flag, $list := dict "bind-hosts" $agent.bindHosts "issuer" $agent.issuers "audience" $agent.audiences }}
{{- range $list }}
- {{ printf "--%s=%s" $flag . | quote }}
{{- end }}
{{- end }}
{{- if $values.serviceAccountRoles }}
- --service-account-roles
{{- end }}
{{- if .variant.credentialsFolder }}
- --rotate-credentials
{{- end }}
{{- with $agent.extraArgs }}
{{ toYaml . }}
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
