{{/* A pod of the agent. Arguments: root, variant. */}}
{{- define "credlet.pod" -}}
{{- $values := .root.Values -}}
# The two addresses are the node's.
hostNetwork: true
dnsPolicy: {{ $values.dnsPolicy }}
serviceAccountName: {{ include "credlet.serviceAccount" .root }}
automountServiceAccountToken: false
enableServiceLinks: false
priorityClassName: {{ $values.priorityClassName }}
terminationGracePeriodSeconds: {{ int $values.terminationGracePeriodSeconds }}
securityContext:
  seccompProfile:
    type: RuntimeDefault
{{- range $key := list "imagePullSecrets" "nodeSelector" "tolerations" }}
{{- with get $values $key }}
{{ $key }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- with .variant.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if $values.link.create }}
initContainers:
  - {{ include "credlet.link" (dict "root" .root "name" "initialize" "arguments" (list "initialize")) | nindent 4 | trim }}
{{- end }}
containers:
  - {{ include "credlet.agent" . | nindent 4 | trim }}
  {{- if $values.link.watch }}
  # A container like any other, not a restartable init container: those need Kubernetes 1.29, and nothing waits for this one.
  - {{ include "credlet.link" (dict "root" .root "name" "watch-link" "arguments" (list "initialize" "--watch")) | nindent 4 | trim }}
  {{- end }}
volumes:
  {{- include "credlet.volumes" . | nindent 2 }}
{{- end }}
