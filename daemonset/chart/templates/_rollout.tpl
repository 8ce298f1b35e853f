{{/* How one agent of a node follows the other. */}}

{{- define "credlet.updateStrategy" -}}
{{- with .Values.updateStrategy -}}
type: {{ .type }}
{{- if eq .type "RollingUpdate" }}
rollingUpdate:
  {{- include "credlet.rollingUpdate" $ | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}

{{/* Kubernetes wants one of the two to be 0. With a surge both agents of a node run, which takes a handover between them. */}}
{{- define "credlet.rollingUpdate" -}}
{{- $asked := .Values.updateStrategy.rollingUpdate | default dict }}
{{- $surge := $asked.maxSurge }}
{{- if kindIs "invalid" $surge }}
{{- $surge = and .Values.handover.enabled (not $asked.maxUnavailable) | ternary 1 0 }}
{{- end }}
{{- $unavailable := $asked.maxUnavailable }}
{{- if kindIs "invalid" $unavailable }}
{{- $unavailable = include "credlet.isNone" $surge | empty | ternary 0 1 }}
{{- end -}}
maxSurge: {{ $surge }}
maxUnavailable: {{ $unavailable }}
{{- end }}

{{- define "credlet.isNone" -}}
{{ if has (toString .) (list "0" "0%") }}yes{{ end }}
{{- end }}

{{/* Refuses what the API server would refuse, or what would wait for a port for ever. */}}
{{- define "credlet.checkStrategy" -}}
{{- $rolling := include "credlet.rollingUpdate" . | fromYaml }}
{{- $nobody := include "credlet.isNone" $rolling.maxSurge }}
{{- if eq $nobody (include "credlet.isNone" $rolling.maxUnavailable) }}
{{- fail "updateStrategy.rollingUpdate: one of maxSurge and maxUnavailable must be 0, and the other not" }}
{{- end }}
{{- if not (or $nobody .Values.handover.enabled) }}
{{- fail "updateStrategy.rollingUpdate.maxSurge: two agents of a node want the same port unless one hands over to the other: handover.enabled" }}
{{- end }}
{{- end }}
