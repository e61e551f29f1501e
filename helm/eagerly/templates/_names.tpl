{{/* The name that all objects of a release begin with. */}}
{{- define "eagerly.fullname" -}}
{{- if contains "eagerly" .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-eagerly{{ end -}}
{{- end }}

{{/* Labels of the chart's own objects. */}}
{{- define "eagerly.labels" -}}
app.kubernetes.io/name: eagerly
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/*
Labels by which Pods are selected: (dict "root" . "component" "..."). Ray's Pods keep the operator's own
app.kubernetes.io/name, which the Service of their head selects by.
*/}}
{{- define "eagerly.selector" -}}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* An image: (dict "root" . "name" "serve"). */}}
{{- define "eagerly.image" -}}
{{- $image := .root.Values.image -}}
{{ $image.prefix }}{{ get $image .name }}:{{ $image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{/* Secrets: where each comes from. */}}
{{- define "eagerly.tlsSecret" -}}
{{- $tls := .Values.security.tls -}}
{{- if eq $tls.source "secret" }}{{ $tls.secretName }}
{{- else if ne $tls.source "none" }}{{ include "eagerly.fullname" . }}-tls
{{- end }}
{{- end }}

{{- define "eagerly.tokensSecret" -}}
{{- $tokens := .Values.security.tokens -}}
{{- if eq $tokens.source "secret" }}{{ $tokens.secretName }}
{{- else if eq $tokens.source "generated" }}{{ include "eagerly.fullname" . }}-tokens
{{- end }}
{{- end }}

{{- define "eagerly.trackingSecret" -}}
{{- if .Values.tracking.enabled }}{{ include "eagerly.fullname" . }}-tracking{{ else }}{{ .Values.tracking.authSecret }}{{ end }}
{{- end }}

{{- define "eagerly.trackingUri" -}}
{{- if .Values.tracking.enabled }}http://{{ include "eagerly.fullname" . }}-tracking:5000{{ else }}{{ .Values.tracking.uri }}{{ end }}
{{- end }}

{{/* Name of the Secret with the database's address, and its key. */}}
{{- define "eagerly.databaseSecret" -}}
{{- if eq .Values.database.kind "external" }}{{ .Values.database.external.secretName }}{{ else }}{{ include "eagerly.fullname" . }}-database{{ end }}
{{- end }}
{{- define "eagerly.databaseKey" -}}
{{- if eq .Values.database.kind "external" }}{{ .Values.database.external.key }}{{ else }}uri{{ end }}
{{- end }}

{{/* What the hook has to make, as words: tls tokens tracking database. */}}
{{- define "eagerly.secretsToMake" -}}
{{- $words := list -}}
{{- if .Values.serving.enabled }}
{{- if eq .Values.security.tls.source "generated" }}{{ $words = append $words "tls" }}{{ end }}
{{- if eq .Values.security.tokens.source "generated" }}{{ $words = append $words "tokens" }}{{ end }}
{{- end }}
{{- if .Values.tracking.enabled }}{{ $words = append $words "tracking" }}
{{- if eq .Values.database.kind "internal" }}{{ $words = append $words "database" }}{{ end }}
{{- end }}
{{- join " " $words }}
{{- end }}

{{/*
The worker groups that serve, as YAML: name, tasks, port, minReplicas, maxReplicas, cpu, memory, gpu of each.
The same list makes Pods, Services, NetworkPolicies, routes and tests.
*/}}
{{- define "eagerly.servingGroups" -}}
{{- $groups := list -}}
{{- $tasks := list -}}
{{- range $name, $service := .Values.serving.services }}
{{- if $service.enabled }}
{{- $tasks = append $tasks $name }}
{{- $groups = append $groups (merge (dict "name" $name "tasks" (list $name)) (omit $service "enabled")) }}
{{- end }}
{{- end }}
{{- if eq .Values.serving.layout "together" }}
{{- $groups = list (merge (dict "name" "together" "tasks" $tasks) .Values.serving.together) }}
{{- end }}
{{- dict "groups" (ternary $groups (list) .Values.serving.enabled) | toYaml }}
{{- end }}

{{/* The gRPC services that a task answers to. */}}
{{- define "eagerly.grpcService" -}}
eagerly.v1.{{ . | title }}
{{- end }}

{{/* Names under which a group's Service is reached: (dict "root" . "name" "..."), one a line. */}}
{{- define "eagerly.serviceNames" -}}
{{- $full := include "eagerly.fullname" .root -}}
{{- $space := .root.Release.Namespace -}}
{{- range $twin := list "" "-headless" }}
{{ $full }}-{{ $.name }}{{ $twin }}
{{ $full }}-{{ $.name }}{{ $twin }}.{{ $space }}
{{ $full }}-{{ $.name }}{{ $twin }}.{{ $space }}.svc
{{ $full }}-{{ $.name }}{{ $twin }}.{{ $space }}.svc.cluster.local
{{- end }}
{{- end }}

{{/* All names of the certificate, as a JSON list. */}}
{{- define "eagerly.dnsNames" -}}
{{- $names := list "localhost" -}}
{{- range $group := (include "eagerly.servingGroups" . | fromYaml).groups }}
{{- $names = concat $names (include "eagerly.serviceNames" (dict "root" $ "name" $group.name) | trim | splitList "\n") }}
{{- end }}
{{- if .Values.exposure.host }}{{ $names = append $names .Values.exposure.host }}{{ end }}
{{- concat $names .Values.security.tls.dnsNames | uniq | toJson }}
{{- end }}

{{- define "eagerly.servingPriority" -}}
{{- .Values.priorities.serving | default (ternary (printf "%s-serving" (include "eagerly.fullname" .)) "" .Values.priorities.create) }}
{{- end }}
{{- define "eagerly.trainingPriority" -}}
{{- .Values.priorities.training | default (ternary (printf "%s-training" (include "eagerly.fullname" .)) "" .Values.priorities.create) }}
{{- end }}
