{{/*
What the Pods of one kind of Ray cluster may do: (dict "root" . "kind" "serving" "workers" "serving" "autoscaling" true).
Among themselves they use ports that Ray draws; from elsewhere come the operator, Prometheus and, to training, jobs.
*/}}
{{- define "eagerly.rayPolicies" }}
{{- $root := .root }}
{{- $full := include "eagerly.fullname" $root }}
{{- $policy := $root.Values.networkPolicy }}
{{- $head := printf "%s-head" .kind }}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ $full }}-{{ .kind }}-ray
  labels:
    {{- include "eagerly.labels" $root | nindent 4 }}
spec:
  podSelector:
    {{- include "eagerly.rayPods" . | nindent 4 }}
  policyTypes: [Ingress{{ if $policy.egress.enabled }}, Egress{{ end }}]
  ingress:
    - from:
        - podSelector:
            {{- include "eagerly.rayPods" . | nindent 12 }}
    - from:
        - namespaceSelector:
            matchLabels:
              kubernetes.io/metadata.name: {{ $policy.monitoring.namespace }}
      ports:
        - {port: 8080, protocol: TCP}
  {{- if $policy.egress.enabled }}
  egress:
    - to:
        - podSelector:
            {{- include "eagerly.rayPods" . | nindent 12 }}
    {{- if $root.Values.tracking.enabled }}
    - to:
        - podSelector:
            matchLabels:
              {{- include "eagerly.selector" (dict "root" $root "component" "tracking") | nindent 14 }}
      ports:
        - {port: 5000, protocol: TCP}
    {{- end }}
    {{- $ports := $policy.egress.internetPorts }}
    {{- if and (eq .kind "serving") (not $root.Values.serving.options.otlpEndpoint) $root.Values.tracking.enabled }}
    {{- $ports = list }}
    {{- end }}
    {{- with $ports }}
    - ports:
        {{- range . }}
        - {port: {{ . }}, protocol: TCP}
        {{- end }}
    {{- end }}
  {{- end }}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ $full }}-{{ $head }}
  labels:
    {{- include "eagerly.labels" $root | nindent 4 }}
spec:
  podSelector:
    matchLabels:
      {{- include "eagerly.selector" (dict "root" $root "component" $head) | nindent 6 }}
  policyTypes: [Ingress{{ if $policy.egress.enabled }}, Egress{{ end }}]
  ingress:
    - from:
        - namespaceSelector:
            matchLabels:
              kubernetes.io/metadata.name: {{ $policy.operator.namespace }}
          podSelector:
            matchLabels:
              {{- toYaml $policy.operator.podLabels | nindent 14 }}
        {{- if eq .kind "training" }}
        - podSelector:
            matchLabels:
              {{- include "eagerly.selector" (dict "root" $root "component" "submitter") | nindent 14 }}
        {{- end }}
      ports:
        - {port: 8265, protocol: TCP}
  {{- if $policy.egress.enabled }}
  egress:
    {{- $ports := ternary $policy.egress.apiPorts (list) .autoscaling }}
    {{- if and (eq .kind "serving") $root.Values.serving.faultTolerance.enabled }}
    {{- $ports = append $ports (regexFind "[0-9]+$" $root.Values.serving.faultTolerance.redisAddress) }}
    {{- end }}
    {{- with $ports }}
    - ports:
        {{- range . }}
        - {port: {{ . }}, protocol: TCP}
        {{- end }}
    {{- end }}
{{- end }}
{{- if and (eq .kind "training") $policy.egress.enabled }}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ $full }}-submitter
  labels:
    {{- include "eagerly.labels" $root | nindent 4 }}
spec:
  podSelector:
    matchLabels:
      {{- include "eagerly.selector" (dict "root" $root "component" "submitter") | nindent 6 }}
  policyTypes: [Egress]
  egress:
    - to:
        - podSelector:
            matchLabels:
              {{- include "eagerly.selector" (dict "root" $root "component" "training-head") | nindent 14 }}
      ports:
        - {port: 8265, protocol: TCP}
{{- end }}
{{- end }}

{{- define "eagerly.rayPods" -}}
matchLabels:
  app.kubernetes.io/instance: {{ .root.Release.Name }}
matchExpressions:
  - key: app.kubernetes.io/component
    operator: In
    values: [{{ .kind }}-head, {{ .workers }}]
{{- end }}
