{{/* The containers that make and keep the link. Arguments: root, variant, name, arguments; handover: the one of them that makes the folder. */}}
{{- define "credlet.link" -}}
{{- $link := .root.Values.link -}}
name: {{ .name }}
image: {{ include "credlet.image" .root }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
command: [/credlet]
args:
  {{- range .arguments }}
  - {{ . }}
  {{- end }}
  {{- with $link.extraArgs }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- if or $link.kind .handover }}
env:
  {{- with $link.kind }}
  - name: CREDLET_LINK_KIND
    value: {{ . }}
  {{- end }}
  {{- if .handover }}
  - name: CREDLET_HANDOVER_DIR
    value: {{ include "credlet.handoverMount" . }}
  - name: CREDLET_HANDOVER_OWNER
    value: {{ include "credlet.uid" . | quote }}
  {{- end }}
{{- end }}
securityContext:
  # The binary bears NET_BIND_SERVICE as a file capability: without it it can't be executed. Links are made by NET_ADMIN, and
  # folders given away by CHOWN.
  {{- $capabilities := list "NET_BIND_SERVICE" }}
  {{- if $link.create }}
  {{- $capabilities = prepend $capabilities "NET_ADMIN" }}
  {{- end }}
  {{- if and .handover (ne (include "credlet.uid" .) "0") }}
  {{- $capabilities = prepend $capabilities "CHOWN" }}
  {{- end }}
  {{- include "credlet.confined" $capabilities | nindent 2 }}
  runAsUser: 0
  runAsGroup: 0
  runAsNonRoot: false
resources:
  {{- toYaml $link.resources | nindent 2 }}
{{- if .handover }}
volumeMounts:
  - name: handover
    mountPath: {{ include "credlet.handoverMount" . }}
{{- end }}
{{- end }}
