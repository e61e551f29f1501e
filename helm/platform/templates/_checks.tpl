{{/* Refuses what would leave eagerly without an operator. */}}
{{- define "platform.check" -}}
{{- $operator := index .Values "kuberay-operator" -}}
{{- with $operator.watchNamespace }}
{{- if and $operator.enabled (not (has $.Release.Namespace .)) }}
{{- fail (printf "kuberay-operator.watchNamespace is [%s], so the operator would not see eagerly in %s; add that namespace, or leave the list out" (join " " .) $.Release.Namespace) }}
{{- end }}
{{- end }}
{{- end }}

{{/* Labels of the operator's Pods, as its chart sets them. */}}
{{- define "platform.operatorLabels" -}}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/name: {{ (index .Values "kuberay-operator").nameOverride | default "kuberay-operator" }}
{{- end }}
