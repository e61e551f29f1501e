{{/*
What Ray's autoscaler has made of a group: (dict "root" . "name" "gpu"). It writes into the object that Helm made; an
upgrade that wrote the least number of Pods again would end a run, and Helm 4 would refuse it.
*/}}
{{- define "eagerly.liveGroup" -}}
{{- $cluster := lookup "ray.io/v1" "RayCluster" .root.Release.Namespace (printf "%s-training" (include "eagerly.fullname" .root)) -}}
{{- range ($cluster.spec | default dict).workerGroupSpecs }}
{{- if eq .groupName $.name }}
{{- pick . "replicas" "scaleStrategy" | toYaml }}
{{- end }}
{{- end }}
{{- end }}

{{/* The Pods of one group: (dict "root" . "name" "gpu" "group" group). */}}
{{- define "eagerly.trainingGroup" -}}
{{- $root := .root }}
{{- $group := .group }}
{{- $selector := dict "root" $root "component" "training-worker" }}
{{- $live := include "eagerly.liveGroup" . | fromYaml }}
- groupName: {{ .name }}
  replicas: {{ max (min ($live.replicas | default $group.minReplicas) $group.maxReplicas) $group.minReplicas }}
  minReplicas: {{ $group.minReplicas }}
  maxReplicas: {{ $group.maxReplicas }}
  numOfHosts: 1
  {{- if hasKey $live "scaleStrategy" }}
  scaleStrategy:
    {{- toYaml $live.scaleStrategy | nindent 4 }}
  {{- end }}
  rayStartParams:
    num-cpus: {{ $group.cpu | quote }}
    {{- if $group.gpu }}
    num-gpus: {{ $group.gpu | quote }}
    {{- end }}
    resources: {{ printf "'{\"training-%s\": 1000}'" .name | toJson }}
  template:
    metadata:
      labels:
        {{- include "eagerly.selector" $selector | nindent 8 }}
    spec:
      automountServiceAccountToken: false
      enableServiceLinks: false
      {{- with include "eagerly.trainingPriority" $root }}
      priorityClassName: {{ . }}
      {{- end }}
      securityContext:
        {{- include "eagerly.podSecurity" $root | nindent 8 }}
      {{- include "eagerly.pullSecrets" $root | nindent 6 }}
      {{- with $group.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $group.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      topologySpreadConstraints:
        {{- include "eagerly.spread" (dict "app.kubernetes.io/instance" $root.Release.Name "app.kubernetes.io/component" "training-worker") | nindent 8 }}
      {{- include "eagerly.rayCertificate" (dict "root" $root "name" "train") | nindent 6 }}
      containers:
        - name: ray-worker
          image: {{ include "eagerly.image" (dict "root" $root "name" "train") }}
          imagePullPolicy: {{ $root.Values.image.pullPolicy }}
          ports:
            - name: metrics
              containerPort: 8080
              protocol: TCP
          env:
            {{- include "eagerly.rayEnv" $root | nindent 12 }}
          resources:
            {{- include "eagerly.resources" $group | nindent 12 }}
          securityContext:
            {{- include "eagerly.containerSecurity" $root | nindent 12 }}
          volumeMounts:
            {{- include "eagerly.rayMounts" $root | nindent 12 }}
      volumes:
        {{- include "eagerly.rayVolumes" $root | nindent 8 }}
        {{- include "eagerly.stateVolume" $selector | nindent 8 }}
{{- end }}

{{/* A job on the training cluster; its driver runs on a Pod of the group, beside its workers. */}}
{{- define "eagerly.rayJob" -}}
{{- $job := .Values.training.job -}}
apiVersion: ray.io/v1
kind: RayJob
metadata:
  generateName: {{ include "eagerly.fullname" . }}-
  namespace: {{ .Release.Namespace }}
  labels:
    app.kubernetes.io/instance: {{ .Release.Name }}
    app.kubernetes.io/component: training-job
spec:
  clusterSelector:
    ray.io/cluster: {{ include "eagerly.fullname" . }}-training
  entrypoint: eagerly train {{ if eq $job.group "gpu" }}--gpu {{ end }}--workers {{ $job.workers }} --wait
  entrypointResources: {{ printf "{\"training-%s\": 1}" $job.group | toJson }}
  activeDeadlineSeconds: {{ $job.activeDeadlineSeconds }}
  submissionMode: K8sJobMode
  submitterConfig:
    backoffLimit: 0
  submitterPodTemplate:
    metadata:
      labels:
        {{- include "eagerly.selector" (dict "root" . "component" "submitter") | nindent 8 }}
    spec:
      restartPolicy: Never
      automountServiceAccountToken: false
      enableServiceLinks: false
      {{- with include "eagerly.trainingPriority" . }}
      priorityClassName: {{ . }}
      {{- end }}
      securityContext:
        {{- include "eagerly.podSecurity" . | nindent 8 }}
      {{- include "eagerly.pullSecrets" . | nindent 6 }}
      containers:
        - name: ray-job-submitter
          image: {{ include "eagerly.image" (dict "root" . "name" "train") }}
          imagePullPolicy: {{ .Values.image.pullPolicy }}
          env:
            - name: HOME
              value: /tmp
          resources:
            requests: {cpu: 200m, memory: 512Mi}
            limits: {memory: 512Mi}
          securityContext:
            {{- include "eagerly.containerSecurity" . | nindent 12 }}
          volumeMounts:
            - name: tmp
              mountPath: /tmp
      volumes:
        - name: tmp
          emptyDir:
            sizeLimit: 1Gi
{{- end }}
