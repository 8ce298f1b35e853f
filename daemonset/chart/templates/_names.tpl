{{/* Names, labels and the image. */}}

{{- define "credlet.name" -}}
{{- if .Values.fullnameOverride -}}
{{ .Values.fullnameOverride }}
{{- else if contains "credlet" .Release.Name -}}
{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-credlet" (.Release.Name | trunc 32 | trimSuffix "-") }}
{{- end -}}
{{- end }}

{{/* What all pods of this release have in common. The name is fixed: the injection policy knows the agent by it. */}}
{{- define "credlet.selector" -}}
app.kubernetes.io/name: credlet
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "credlet.labels" -}}
{{ include "credlet.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "credlet.metadata" -}}
name: {{ include "credlet.name" . }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "credlet.labels" . | nindent 2 }}
{{- end }}

{{- define "credlet.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ printf "%s@%s" .repository .digest | quote }}
{{- else -}}
{{- /* A tag such as 20260131 is a number. */}}
{{- $tag := kindIs "float64" .tag | ternary (int64 .tag | toString) (.tag | default "" | toString) }}
{{- printf "%s:%s" .repository ($tag | default $.Chart.AppVersion) | quote }}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Cluster-wide objects bear the namespace in their name: two releases must not share them. */}}
{{/* Arguments: root, the value that it is for. */}}
{{- define "credlet.clusterRole" -}}
{{ printf "%s-%s-%s" .root.Release.Namespace (include "credlet.name" .root) .for }}
{{- end }}

{{- define "credlet.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "credlet.name" .) }}
{{- else -}}
{{ .Values.serviceAccount.name | default "default" }}
{{- end -}}
{{- end }}
