{{/* Volumes and where the agent finds them. Arguments: root, variant, name. */}}

{{- define "credlet.handoverMount" -}}
/run/credlet-handover
{{- end }}

{{- define "credlet.mounts" -}}
- name: run
  mountPath: /run/credlet
{{- if .root.Values.handover.enabled }}
- name: handover
  mountPath: {{ include "credlet.handoverMount" . }}
{{- end }}
{{- if include "credlet.policyMap" .root }}
- name: policy
  mountPath: /etc/credlet/policy
  readOnly: true
{{- end }}
{{- if .variant.credentialsFolder }}
- name: node-credentials
  mountPath: /etc/credlet/aws
  readOnly: true
{{- end }}
{{- if include "credlet.caBundle" .root }}
- name: ca-bundle
  mountPath: {{ include "credlet.caBundleMount" .root }}
  readOnly: true
{{- end }}
{{- if include "credlet.needsToken" .root }}
- name: api-server-token
  mountPath: /var/run/secrets/kubernetes.io/serviceaccount
  readOnly: true
{{- end }}
{{- with .root.Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "credlet.volumes" -}}
# The status socket.
- name: run
  emptyDir:
    medium: Memory
    sizeLimit: 1Mi
{{- if .root.Values.handover.enabled }}
# Where this DaemonSet's agents of a node find each other: one hands its sockets and what it holds over to the next.
- name: handover
  hostPath:
    path: {{ .root.Values.handover.folder }}/{{ .root.Release.Namespace }}/{{ .name }}
    type: DirectoryOrCreate
{{- end }}
{{- with include "credlet.policyMap" .root }}
# A folder, not a file of it: so a change arrives.
- name: policy
  configMap:
    name: {{ . }}
    items:
      - key: {{ include "credlet.policyKey" $.root }}
        path: policy.yaml
{{- end }}
{{- with .variant.credentialsFolder }}
# The folder, not the file: whoever renews the credentials puts a new file in its place.
- name: node-credentials
  hostPath:
    path: {{ . }}
    type: Directory
{{- end }}
{{- with include "credlet.caBundle" .root }}
- name: ca-bundle
  {{- . | nindent 2 }}
{{- end }}
{{- if include "credlet.needsToken" .root }}
# The token of the service account, for the agent's container only: the one that makes the link has no business with it.
- name: api-server-token
  projected:
    sources:
      - serviceAccountToken:
          expirationSeconds: 3607
          path: token
      - configMap:
          name: kube-root-ca.crt
          items:
            - { key: ca.crt, path: ca.crt }
{{- end }}
{{- with .root.Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Not empty where the agent asks the API server. */}}
{{- define "credlet.needsToken" -}}
{{- if or .Values.serviceAccountRoles .Values.podWatch .Values.apiServerKeys }}yes{{ end }}
{{- end }}

{{/* The ConfigMap with the policy, or nothing. */}}
{{- define "credlet.policyMap" -}}
{{- if .Values.policy.existingConfigMap.name -}}
{{ .Values.policy.existingConfigMap.name }}
{{- else if .Values.policy.content -}}
{{ printf "%s-policy" (include "credlet.name" .) }}
{{- end -}}
{{- end }}

{{- define "credlet.policyKey" -}}
{{- with .Values.policy.existingConfigMap -}}
{{ .name | empty | ternary "policy.yaml" .key }}
{{- end -}}
{{- end }}

{{/* The volume with trusted certificates, or nothing. */}}
{{- define "credlet.caBundle" -}}
{{- with .Values.caBundle.configMap -}}
configMap:
  name: {{ .name }}
  items:
    - { key: {{ .key }}, path: ca-bundle.crt }
{{- end }}
{{- with .Values.caBundle.secret -}}
secret:
  secretName: {{ .name }}
  items:
    - { key: {{ .key }}, path: ca-bundle.crt }
{{- end }}
{{- with include "credlet.caBundleOnHost" . -}}
hostPath:
  path: {{ . }}
  type: File
{{- end }}
{{- end }}

{{- define "credlet.caBundleOnHost" -}}
{{- if .Values.caBundle.hostPath -}}
{{ .Values.caBundle.hostPath }}
{{- else if and (contains "-iso" .Values.region) (not .Values.caBundle) (not (hasKey (.Values.env | default dict) "AWS_CA_BUNDLE")) -}}
/etc/pki/tls/certs/ca-bundle.crt
{{- end -}}
{{- end }}

{{/* A hostPath is the file itself, the others are folders with it. */}}
{{- define "credlet.caBundleMount" -}}
{{ include "credlet.caBundleOnHost" . | empty | ternary "/etc/credlet/ca" "/etc/credlet/ca-bundle.crt" }}
{{- end }}

{{- define "credlet.caBundleFile" -}}
{{ include "credlet.caBundleOnHost" . | empty | ternary "/etc/credlet/ca/ca-bundle.crt" "/etc/credlet/ca-bundle.crt" }}
{{- end }}
