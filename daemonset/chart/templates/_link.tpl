{{/* The containers that make and keep the link. Arguments: root, name, command. */}}
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
{{- with $link.kind }}
env:
  - name: CREDLET_LINK_KIND
    value: {{ . }}
{{- end }}
securityContext:
  # Links are made by NET_ADMIN. The binary bears NET_BIND_SERVICE as a file capability: without it it can't be executed.
  {{- include "credlet.confined" (list "NET_ADMIN" "NET_BIND_SERVICE") | nindent 2 }}
  runAsUser: 0
  runAsGroup: 0
  runAsNonRoot: false
resources:
  {{- toYaml $link.resources | nindent 2 }}
{{- end }}
