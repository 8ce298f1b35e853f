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
{{- $handover := $values.handover.enabled }}
{{- $link := dict "root" .root "variant" .variant }}
{{- if or $values.link.create $handover }}
{{- $arguments := $values.link.create | ternary (list "initialize") (list "initialize" "--no-link") }}
initContainers:
  - {{ include "credlet.link" (merge (dict "name" "initialize" "arguments" $arguments "handover" $handover) $link) | nindent 4 | trim }}
{{- end }}
containers:
  - {{ include "credlet.agent" . | nindent 4 | trim }}
  {{- if $values.link.watch }}
  # A container like any other, not a restartable init container: those need Kubernetes 1.29, and nothing waits for this one.
  - {{ include "credlet.link" (merge (dict "name" "watch-link" "arguments" (list "initialize" "--watch")) $link) | nindent 4 | trim }}
  {{- end }}
volumes:
  {{- include "credlet.volumes" . | nindent 2 }}
{{- end }}
