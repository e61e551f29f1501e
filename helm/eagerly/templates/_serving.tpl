{{/* Ray Serve's configuration: an application a worker group, pinned to it by a resource that only its Pods have. */}}
{{- define "eagerly.serveConfig" -}}
proxy_location: Disabled
applications:
{{- range $group := (include "eagerly.servingGroups" . | fromYaml).groups }}
  - name: {{ $group.name }}
    route_prefix: null
    import_path: services.application:build
    args:
      tasks: {{ toJson $group.tasks }}
      scaling:
        replicas: {{ $group.minReplicas }}
        {{- if gt ($group.maxReplicas | int) ($group.minReplicas | int) }}
        max_replicas: {{ $group.maxReplicas }}
        {{- end }}
        target_queue_ms: {{ $.Values.serving.scaling.targetQueueMilliseconds | toJson }}
        scale_up_s: {{ $.Values.serving.scaling.scaleUpSeconds | toJson }}
        scale_down_s: {{ $.Values.serving.scaling.scaleDownSeconds | toJson }}
      cpus: {{ $group.cpu }}
      gpu: {{ gt ($group.gpu | int) 0 }}
      options:
        {{- include "eagerly.endpointOptions" (dict "root" $ "group" $group) | nindent 8 }}
    deployments:
      - name: endpoint
        max_replicas_per_node: 1
        ray_actor_options:
          num_cpus: {{ $group.cpu }}
          num_gpus: {{ $group.gpu }}
          resources:
            {{ $group.name }}: 1
          # Ray takes these options instead of those of services/endpoint.py, whose environment is said again here.
          runtime_env:
            env_vars:
              RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD: "0"
              ONEDNN_PRIMITIVE_CACHE_CAPACITY: "256"
              LRU_CACHE_CAPACITY: "32"
              MALLOC_ARENA_MAX: "2"
              GRPC_VERBOSITY: "NONE"
{{- end }}
{{- end }}

{{/* An endpoint's options, by the names of services/options.py; as JSON, since Go writes 1000000 as 1e+06. */}}
{{- define "eagerly.endpointOptions" -}}
{{- $serving := .root.Values.serving -}}
{{- $security := .root.Values.security -}}
{{- $options := $serving.options -}}
host: 0.0.0.0
port: {{ .group.port }}
metrics_host: 0.0.0.0
metrics_port: {{ $serving.metricsPort }}
probe_host: 0.0.0.0
probe_port: {{ $serving.probePort }}
{{- if ne $security.tls.source "none" }}
tls_cert: /etc/eagerly/tls/tls.crt
tls_key: /etc/eagerly/tls/tls.key
{{- end }}
{{- if $security.tls.clientCaSecret }}
client_ca: /etc/eagerly/client-ca/ca.crt
{{- end }}
{{- if include "eagerly.tokensSecret" .root }}
tokens: /etc/eagerly/tokens/tokens
{{- end }}
{{- if $security.jwt.secretName }}
jwks: /etc/eagerly/jwt/jwks.json
jwt_issuer: {{ $security.jwt.issuer | quote }}
jwt_audience: {{ $security.jwt.audience | quote }}
{{- end }}
{{- if or $security.allowPlaintext $security.allowAnonymous }}
insecure: true
{{- end }}
reflection: {{ $options.reflection }}
access_log: {{ ternary "-" "" $options.accessLog | quote }}
log_payloads: {{ $options.logPayloadBytes | toJson }}
otlp_endpoint: {{ $options.otlpEndpoint | quote }}
trace_ratio: {{ $options.traceRatio | toJson }}
max_message_bytes: {{ $options.maxMessageBytes | toJson }}
accept_compressed: {{ $options.acceptCompressed }}
max_items: {{ $options.maxItems | toJson }}
max_batch: {{ $options.maxBatch | toJson }}
max_waiting: {{ $options.maxWaiting | toJson }}
max_held_bytes: {{ $options.maxHeldBytes | toJson }}
inline: {{ $options.inline }}
threads: {{ .group.cpu }}
paths: {{ $options.paths }}
tolerance: {{ $options.tolerance | toJson }}
notice_s: {{ $options.noticeSeconds | toJson }}
drain_s: {{ $options.drainSeconds | toJson }}
poll_s: {{ $options.pollSeconds | toJson }}
max_connection_age_s: {{ $options.maxConnectionAgeSeconds | toJson }}
abstain_below: {{ $options.abstainBelow | toJson }}
drift: {{ $options.drift }}
{{- end }}

{{/*
Seconds that Ray gives a Pod of serving which is told to end: another takes its replica over, then this one gives notice
and calls end, within the five seconds more that Serve waits. Ray stops a replica so early that the end of its calls
fits in, whether or not it has been replaced. The head takes as long, since Serve's controller lives there.
*/}}
{{- define "eagerly.leaveSeconds" -}}
{{- $options := .Values.serving.options -}}
{{- add .Values.serving.handoverSeconds (ceil (addf $options.noticeSeconds $options.drainSeconds)) 5 }}
{{- end }}

{{/* The Pods of one group: (dict "root" . "group" group). */}}
{{- define "eagerly.servingGroup" -}}
{{- $root := .root }}
{{- $group := .group }}
{{- $serving := $root.Values.serving }}
{{- $security := $root.Values.security }}
{{- $most := add $group.maxReplicas $serving.surge }}
{{- $least := ternary ($group.minReplicas | int) ($most | int) $serving.autoscaling }}
{{- $selector := dict "root" $root "component" "serving" }}
- groupName: {{ $group.name }}
  replicas: {{ $least }}
  minReplicas: {{ $least }}
  maxReplicas: {{ $most }}
  # As the operator writes the list: else it would own it, and Helm 4 could not upgrade.
  numOfHosts: 1
  scaleStrategy: {}
  rayStartParams:
    num-cpus: {{ $group.cpu | quote }}
    object-store-memory: "200000000"
    resources: {{ printf "'{\"%s\": 1}'" $group.name | toJson }}
  template:
    metadata:
      labels:
        {{- include "eagerly.selector" $selector | nindent 8 }}
      annotations:
        # The operator leaves a Ray cluster as it is when only these numbers change; said here, they make a new one.
        eagerly/replicas: "{{ $least }} to {{ $most }}"
    spec:
      automountServiceAccountToken: false
      enableServiceLinks: false
      terminationGracePeriodSeconds: {{ include "eagerly.leaveSeconds" $root | add 10 }}
      {{- with include "eagerly.servingPriority" $root }}
      priorityClassName: {{ . }}
      {{- end }}
      securityContext:
        {{- include "eagerly.podSecurity" $root | nindent 8 }}
      {{- include "eagerly.pullSecrets" $root | nindent 6 }}
      {{- with $serving.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $serving.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      topologySpreadConstraints:
        {{- include "eagerly.spread" (dict "app.kubernetes.io/instance" $root.Release.Name "ray.io/group" $group.name) | nindent 8 }}
      {{- include "eagerly.rayCertificate" (dict "root" $root "name" "serve") | nindent 6 }}
      containers:
        - name: ray-worker
          image: {{ include "eagerly.image" (dict "root" $root "name" (ternary "serveCuda" "serve" (gt ($group.gpu | int) 0))) }}
          imagePullPolicy: {{ $root.Values.image.pullPolicy }}
          ports:
            - name: grpc
              containerPort: {{ $group.port }}
              protocol: TCP
            - name: probe
              containerPort: {{ $serving.probePort }}
              protocol: TCP
            - name: eagerly-metrics
              containerPort: {{ $serving.metricsPort }}
              protocol: TCP
            - name: metrics
              containerPort: 8080
              protocol: TCP
          # The operator's own probe would ask Ray Serve's proxy, which is off. Its liveness probe is good and stays.
          readinessProbe:
            grpc:
              port: {{ $serving.probePort }}
              service: ""
            periodSeconds: 2
            timeoutSeconds: 2
            failureThreshold: 2
          env:
            {{- include "eagerly.rayEnv" $root | nindent 12 }}
            - name: RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S
              value: {{ include "eagerly.leaveSeconds" $root | quote }}
          resources:
            {{- include "eagerly.resources" $group | nindent 12 }}
          securityContext:
            {{- include "eagerly.containerSecurity" $root | nindent 12 }}
          volumeMounts:
            {{- include "eagerly.rayMounts" $root | nindent 12 }}
            {{- include "eagerly.lockMounts" $root | nindent 12 }}
      volumes:
        {{- include "eagerly.rayVolumes" $root | nindent 8 }}
        {{- include "eagerly.stateVolume" $selector | nindent 8 }}
        {{- include "eagerly.lockVolumes" $root | nindent 8 }}
{{- end }}

{{/* The files that lock the gRPC port: each from a Secret, as whole folders, so that they are renewed in place. */}}
{{- define "eagerly.locks" -}}
{{- $locks := dict -}}
{{- with include "eagerly.tlsSecret" . }}{{ $_ := set $locks "tls" (dict "secret" . "keys" (list "tls.crt" "tls.key")) }}{{ end }}
{{- with .Values.security.tls.clientCaSecret }}{{ $_ := set $locks "client-ca" (dict "secret" . "keys" (list "ca.crt")) }}{{ end }}
{{- with include "eagerly.tokensSecret" . }}{{ $_ := set $locks "tokens" (dict "secret" . "keys" (list "tokens")) }}{{ end }}
{{- with .Values.security.jwt.secretName }}{{ $_ := set $locks "jwt" (dict "secret" . "keys" (list "jwks.json")) }}{{ end }}
{{- toYaml $locks }}
{{- end }}

{{- define "eagerly.lockMounts" -}}
{{- range $name, $lock := include "eagerly.locks" . | fromYaml }}
- name: {{ $name }}
  mountPath: /etc/eagerly/{{ $name }}
  readOnly: true
{{- end }}
{{- end }}

{{- define "eagerly.lockVolumes" -}}
{{- range $name, $lock := include "eagerly.locks" . | fromYaml }}
- name: {{ $name }}
  secret:
    secretName: {{ $lock.secret }}
    defaultMode: 0440
    items:
      {{- range $lock.keys }}
      - key: {{ . }}
        path: {{ . }}
      {{- end }}
{{- end }}
{{- end }}
