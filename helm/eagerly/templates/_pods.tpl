{{/* What "restricted" asks of a container, and a root file system that nobody writes to. */}}
{{- define "eagerly.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "eagerly.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ .Values.pods.runAsUser }}
runAsGroup: {{ .Values.pods.runAsGroup }}
fsGroup: {{ .Values.pods.runAsGroup }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "eagerly.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Requests, and limits where running out harms others: (dict "cpu" 1 "memory" "2Gi" "gpu" 0). */}}
{{- define "eagerly.resources" -}}
requests:
  cpu: {{ .cpu | quote }}
  memory: {{ .memory }}
  {{- if .gpu }}
  nvidia.com/gpu: {{ .gpu }}
  {{- end }}
limits:
  memory: {{ .memory }}
  {{- if .gpu }}
  nvidia.com/gpu: {{ .gpu }}
  {{- end }}
{{- end }}

{{/* The environment of every Ray container. */}}
{{- define "eagerly.rayEnv" -}}
- name: HOME
  value: /tmp
- name: EAGERLY_HOME
  value: /var/lib/eagerly
- name: RAY_USAGE_STATS_ENABLED
  value: "0"
- name: RAY_worker_niceness
  value: "0"
- name: RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD
  value: "0"
{{- include "eagerly.trackingEnv" . }}
{{- if .Values.security.rayTls.enabled }}
- name: RAY_USE_TLS
  value: "1"
- name: RAY_TLS_SERVER_CERT
  value: /etc/ray/tls/tls.crt
- name: RAY_TLS_SERVER_KEY
  value: /etc/ray/tls/tls.key
- name: RAY_TLS_CA_CERT
  value: /etc/ray/tls/ca.crt
{{- end }}
{{- end }}

{{- define "eagerly.trackingEnv" }}
- name: MLFLOW_TRACKING_URI
  value: {{ include "eagerly.trackingUri" . | quote }}
{{- with include "eagerly.trackingSecret" . }}
- name: MLFLOW_TRACKING_USERNAME
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: username
- name: MLFLOW_TRACKING_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: password
{{- end }}
{{- end }}

{{- define "eagerly.rayMounts" -}}
- name: tmp
  mountPath: /tmp
- name: state
  mountPath: /var/lib/eagerly
{{- if .Values.security.rayTls.enabled }}
- name: ray-tls
  mountPath: /etc/ray/tls
  readOnly: true
{{- end }}
{{- end }}

{{- define "eagerly.rayVolumes" -}}
- name: tmp
  emptyDir:
    sizeLimit: {{ .Values.pods.tmpSize }}
{{- if .Values.security.rayTls.enabled }}
- name: ray-tls
  emptyDir:
    medium: Memory
    sizeLimit: 1Mi
- name: ray-authority
  secret:
    secretName: {{ .Values.security.rayTls.caSecret }}
    defaultMode: 0440
- name: ray-certificate
  configMap:
    name: {{ include "eagerly.fullname" . }}-programs
{{- end }}
{{- end }}

{{/* Draws a certificate for the Pod's own address, before the operator's init container needs it. */}}
{{- define "eagerly.rayCertificate" -}}
{{- if .root.Values.security.rayTls.enabled }}
initContainers:
  - name: ray-certificate
    image: {{ include "eagerly.image" . }}
    imagePullPolicy: {{ .root.Values.image.pullPolicy }}
    command: [python, /opt/programs/ray_certificate.py]
    env:
      - name: POD_IP
        valueFrom:
          fieldRef:
            fieldPath: status.podIP
    resources:
      requests: {cpu: 100m, memory: 128Mi}
      limits: {memory: 128Mi}
    securityContext:
      {{- include "eagerly.containerSecurity" . | nindent 6 }}
    volumeMounts:
      - name: ray-authority
        mountPath: /etc/ray/authority
        readOnly: true
      - name: ray-certificate
        mountPath: /opt/programs
        readOnly: true
      - name: ray-tls
        mountPath: /etc/ray/tls
{{- end }}
{{- end }}

{{/*
A Ray head: (dict "root" . "name" "serve" "component" "serving-head" "size" head "autoscaling" true "priority" ""), and
"leaveSeconds" of one that takes longer to end than Ray's 30 seconds. With autoscaling, the API's token is mounted where the autoscaler runs and nowhere else.
*/}}
{{- define "eagerly.rayHead" -}}
rayStartParams:
  num-cpus: "0"
  dashboard-host: 0.0.0.0
  object-store-memory: "100000000"
template:
  metadata:
    labels:
      {{- include "eagerly.selector" . | nindent 6 }}
  spec:
    automountServiceAccountToken: false
    enableServiceLinks: false
    {{- with .leaveSeconds }}
    terminationGracePeriodSeconds: {{ add . 10 }}
    {{- end }}
    {{- with .priority }}
    priorityClassName: {{ . }}
    {{- end }}
    securityContext:
      {{- include "eagerly.podSecurity" .root | nindent 6 }}
    {{- include "eagerly.pullSecrets" .root | nindent 4 }}
    {{- include "eagerly.rayCertificate" . | nindent 4 }}
    containers:
      - name: ray-head
        image: {{ include "eagerly.image" . }}
        imagePullPolicy: {{ .root.Values.image.pullPolicy }}
        ports:
          - name: gcs-server
            containerPort: 6379
            protocol: TCP
          - name: dashboard
            containerPort: 8265
            protocol: TCP
          - name: metrics
            containerPort: 8080
            protocol: TCP
        env:
          {{- include "eagerly.rayEnv" .root | nindent 10 }}
          {{- with .leaveSeconds }}
          - name: RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S
            value: {{ . | quote }}
          {{- end }}
        resources:
          {{- include "eagerly.resources" .size | nindent 10 }}
        securityContext:
          {{- include "eagerly.containerSecurity" . | nindent 10 }}
        volumeMounts:
          {{- include "eagerly.rayMounts" .root | nindent 10 }}
    volumes:
      {{- include "eagerly.rayVolumes" .root | nindent 6 }}
      {{- include "eagerly.stateVolume" . | nindent 6 }}
      {{- if .autoscaling }}
      - name: api-access
        projected:
          defaultMode: 0440
          sources:
            - serviceAccountToken:
                path: token
                expirationSeconds: 3600
            - configMap:
                name: kube-root-ca.crt
                items:
                  - key: ca.crt
                    path: ca.crt
            - downwardAPI:
                items:
                  - path: namespace
                    fieldRef:
                      fieldPath: metadata.namespace
      {{- end }}
{{- end }}

{{/* Where models and runs lie: a claim for training that has one, else the Pod's own disk. */}}
{{- define "eagerly.stateVolume" -}}
- name: state
  {{- if and (hasPrefix "training" .component) (include "eagerly.trainingClaim" .root) }}
  persistentVolumeClaim:
    claimName: {{ include "eagerly.trainingClaim" .root }}
  {{- else }}
  emptyDir:
    sizeLimit: {{ .root.Values.serving.modelsSize }}
  {{- end }}
{{- end }}

{{- define "eagerly.trainingClaim" -}}
{{- $storage := .Values.training.storage -}}
{{- $storage.existingClaim | default (ternary (printf "%s-runs" (include "eagerly.fullname" .)) "" (ne $storage.size "")) }}
{{- end }}

{{/* Ray's autoscaler beside a head: (dict "root" . "idle" seconds). */}}
{{- define "eagerly.autoscaler" -}}
version: v2
idleTimeoutSeconds: {{ .idle }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
env:
  - name: HOME
    value: /tmp
  {{- if .root.Values.security.rayTls.enabled }}
  - name: RAY_USE_TLS
    value: "1"
  - name: RAY_TLS_SERVER_CERT
    value: /etc/ray/tls/tls.crt
  - name: RAY_TLS_SERVER_KEY
    value: /etc/ray/tls/tls.key
  - name: RAY_TLS_CA_CERT
    value: /etc/ray/tls/ca.crt
  {{- end }}
resources:
  requests:
    cpu: 200m
    memory: 512Mi
  limits:
    memory: 512Mi
securityContext:
  {{- include "eagerly.containerSecurity" . | nindent 2 }}
volumeMounts:
  - name: tmp
    mountPath: /tmp
  - name: api-access
    mountPath: /var/run/secrets/kubernetes.io/serviceaccount
    readOnly: true
  {{- if .root.Values.security.rayTls.enabled }}
  - name: ray-tls
    mountPath: /etc/ray/tls
    readOnly: true
  {{- end }}
{{- end }}

{{/* Spreads Pods over zones and nodes as far as there are any: labels of the Pods, as a dict. */}}
{{- define "eagerly.spread" -}}
{{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
- maxSkew: 1
  topologyKey: {{ $key }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- toYaml $ | nindent 6 }}
{{- end }}
{{- end }}
