{{/* What values.schema.json cannot see: values that need each other. Each sentence says what is wrong and the way out. */}}
{{- define "eagerly.checks" -}}
{{- include "eagerly.checkNames" . }}
{{- if .Values.serving.enabled }}
{{- include "eagerly.checkServing" . }}
{{- include "eagerly.checkLocks" . }}
{{- end }}
{{- include "eagerly.checkExposure" . }}
{{- include "eagerly.checkTraining" . }}
{{- include "eagerly.checkTracking" . }}
{{- include "eagerly.checkEgress" . }}
{{- include "eagerly.checkMonitoring" . }}
{{- end }}

{{- define "eagerly.checkNames" -}}
{{- $full := include "eagerly.fullname" . -}}
{{- if gt (len $full) 34 }}
{{- fail (printf "the release's objects would begin with %q, %d characters long; Ray's names leave room for 34: choose a shorter release name" $full (len $full)) }}
{{- end }}
{{- if not (regexMatch "^[a-z][a-z0-9-]*$" $full) }}
{{- fail (printf "the release name %q cannot begin the names of Services: choose one of small letters, digits and -, beginning with a letter" .Release.Name) }}
{{- end }}
{{- if eq .Values.image.tag "latest" }}
{{- fail "image.tag is latest, which names another image tomorrow and cannot be rolled back to; give a version" }}
{{- end }}
{{- if or (hasSuffix ":latest" .Values.database.internal.image) (not (regexMatch "(:[^/]+|@sha256:[0-9a-f]{64})$" .Values.database.internal.image)) }}
{{- fail (printf "database.internal.image is %q; give a version after a colon, other than latest" .Values.database.internal.image) }}
{{- end }}
{{- if not (or .Values.serving.enabled .Values.training.enabled .Values.tracking.enabled) }}
{{- fail "serving, training and tracking are all disabled, so there is nothing to install; enable one" }}
{{- end }}
{{- end }}

{{- define "eagerly.checkServing" -}}
{{- $serving := .Values.serving -}}
{{- $groups := (include "eagerly.servingGroups" . | fromYaml).groups -}}
{{- $tasks := list -}}
{{- $ports := dict ($serving.probePort | toString) "serving.probePort" -}}
{{- if hasKey $ports ($serving.metricsPort | toString) }}
{{- fail (printf "serving.metricsPort and serving.probePort are both %v; give each a port of its own" $serving.metricsPort) }}
{{- end }}
{{- $_ := set $ports ($serving.metricsPort | toString) "serving.metricsPort" }}
{{- range $reserved := list 6379 8080 8265 10001 52365 }}
{{- if hasKey $ports ($reserved | toString) }}
{{- fail (printf "%s is %d, a port of Ray's own; choose another" (get $ports ($reserved | toString)) $reserved) }}
{{- end }}
{{- $_ := set $ports ($reserved | toString) "a port of Ray's own" }}
{{- end }}
{{- range $group := $groups }}
{{- $tasks = concat $tasks $group.tasks }}
{{- $where := ternary "serving.together" (printf "serving.services.%s" $group.name) (eq $group.name "together") }}
{{- $port := $group.port | toString }}
{{- if hasKey $ports $port }}
{{- fail (printf "%s.port is %s, which is also %s; give each a port of its own" $where $port (get $ports $port)) }}
{{- end }}
{{- $_ := set $ports $port (printf "%s.port" $where) }}
{{- if gt ($group.minReplicas | int) ($group.maxReplicas | int) }}
{{- fail (printf "%s.minReplicas is %v and maxReplicas %v; the least must not exceed the most" $where $group.minReplicas $group.maxReplicas) }}
{{- end }}
{{- end }}
{{- if not $tasks }}
{{- fail "no service under serving.services is enabled; enable one, or set serving.enabled to false" }}
{{- end }}
{{- if lt ($serving.options.maxWaiting | int) ($serving.options.maxItems | int) }}
{{- fail (printf "serving.options.maxWaiting is %v; it must be at least maxItems, %v, or no full call could wait" $serving.options.maxWaiting $serving.options.maxItems) }}
{{- end }}
{{- if lt ($serving.options.maxHeldBytes | int) ($serving.options.maxMessageBytes | int) }}
{{- fail (printf "serving.options.maxHeldBytes is %v; it must be at least maxMessageBytes, %v, or the largest request could not come in" ($serving.options.maxHeldBytes | int) ($serving.options.maxMessageBytes | int)) }}
{{- end }}
{{- if and $serving.options.logPayloadBytes (not $serving.options.accessLog) }}
{{- fail (printf "serving.options.logPayloadBytes is %v, and serving.options.accessLog is false; there is no log to put them into" $serving.options.logPayloadBytes) }}
{{- end }}
{{- if and $serving.faultTolerance.enabled (not (regexMatch "^rediss?://[^/@]+:[0-9]+$" $serving.faultTolerance.redisAddress)) }}
{{- fail (printf "serving.faultTolerance is enabled and redisAddress is %q; give redis://host:port or rediss://host:port, and the password as passwordSecret" $serving.faultTolerance.redisAddress) }}
{{- end }}
{{- end }}

{{- define "eagerly.checkLocks" -}}
{{- $security := .Values.security -}}
{{- $tls := $security.tls -}}
{{- $plain := eq $tls.source "none" -}}
{{- if and (eq $tls.source "secret") (not $tls.secretName) }}
{{- fail "security.tls.source is secret, and security.tls.secretName names none; name a Secret with tls.crt and tls.key" }}
{{- end }}
{{- if and (ne $tls.source "secret") $tls.secretName }}
{{- fail (printf "security.tls.secretName is %q, and security.tls.source %q would not use it; set the source to secret" $tls.secretName $tls.source) }}
{{- end }}
{{- if and (eq $tls.source "certManager") (not $tls.certManager.issuerName) }}
{{- fail "security.tls.source is certManager, and security.tls.certManager.issuerName names no issuer" }}
{{- end }}
{{- if and $plain (not $security.allowPlaintext) }}
{{- fail "security.tls.source is none, so calls and replies could be read on the way: set security.allowPlaintext to true to accept that, or choose generated, secret or certManager" }}
{{- end }}
{{- if and (not $plain) $security.allowPlaintext }}
{{- fail (printf "security.allowPlaintext is true, and security.tls.source %q speaks TLS: set the source to none, or allowPlaintext to false" $tls.source) }}
{{- end }}
{{- if and $plain $tls.clientCaSecret }}
{{- fail "security.tls.clientCaSecret needs TLS, and security.tls.source is none; choose generated, secret or certManager" }}
{{- end }}
{{- if and (eq $security.tokens.source "secret") (not $security.tokens.secretName) }}
{{- fail "security.tokens.source is secret, and security.tokens.secretName names none; name a Secret with the key tokens" }}
{{- end }}
{{- if and (ne $security.tokens.source "secret") $security.tokens.secretName }}
{{- fail (printf "security.tokens.secretName is %q, and security.tokens.source %q would not use it; set the source to secret" $security.tokens.secretName $security.tokens.source) }}
{{- end }}
{{- $jwt := list $security.jwt.secretName $security.jwt.issuer $security.jwt.audience | compact | len }}
{{- if and (gt $jwt 0) (lt $jwt 3) }}
{{- fail "security.jwt.secretName, issuer and audience need each other; give all three or none" }}
{{- end }}
{{- $tokens := or (ne $security.tokens.source "none") (gt $jwt 0) }}
{{- if and $plain $tokens }}
{{- fail "security.tls.source is none, and tokens sent in the clear are everybody's: set security.tokens.source to none (and jwt to nothing), or use TLS" }}
{{- end }}
{{- $known := or $tokens (ne $tls.clientCaSecret "") }}
{{- if and (not $known) (not $security.allowAnonymous) }}
{{- fail "nothing asks callers who they are: set security.tokens.source, security.jwt or security.tls.clientCaSecret, or security.allowAnonymous to true to accept anybody whom the NetworkPolicy lets in" }}
{{- end }}
{{- if and $known $security.allowAnonymous }}
{{- fail "security.allowAnonymous is true, and callers are asked for a token, JWT or certificate; set it to false, or take those away" }}
{{- end }}
{{- if and $security.allowAnonymous (not .Values.networkPolicy.enabled) }}
{{- fail "security.allowAnonymous leaves the NetworkPolicy as the only lock, and networkPolicy.enabled is false; set one of them right" }}
{{- end }}
{{- if and $security.rayTls.enabled (not $security.rayTls.caSecret) }}
{{- fail "security.rayTls is enabled, and security.rayTls.caSecret names no Secret with ca.crt and ca.key" }}
{{- end }}
{{- end }}

{{- define "eagerly.checkExposure" -}}
{{- $exposure := .Values.exposure -}}
{{- $gateway := $exposure.gateway -}}
{{- $ingress := $exposure.ingress -}}
{{- $balanced := and .Values.serving.enabled (eq .Values.serving.service.type "LoadBalancer") -}}
{{- if or $gateway.enabled $ingress.enabled $balanced }}
{{- $what := ternary "exposure.gateway" (ternary "exposure.ingress" "serving.service.type LoadBalancer" $ingress.enabled) $gateway.enabled }}
{{- if not .Values.serving.enabled }}
{{- fail (printf "%s needs services, and serving.enabled is false" $what) }}
{{- end }}
{{- if .Values.security.allowAnonymous }}
{{- fail (printf "%s would let anybody in: security.allowAnonymous is for calls inside the cluster; use tokens, JWTs or client certificates" $what) }}
{{- end }}
{{- if and $balanced .Values.security.allowPlaintext }}
{{- fail "serving.service.type LoadBalancer would carry plaintext out of the cluster; use TLS" }}
{{- end }}
{{- end }}
{{- if or $gateway.enabled $ingress.enabled }}
{{- if not $exposure.host }}
{{- fail "exposure.host is empty; give the host name under which all services are reached" }}
{{- end }}
{{- end }}
{{- if $gateway.enabled }}
{{- if not $gateway.name }}
{{- fail "exposure.gateway is enabled, and exposure.gateway.name names no Gateway" }}
{{- end }}
{{- if not $gateway.dataNamespace }}
{{- fail "exposure.gateway.dataNamespace is empty, so the NetworkPolicy would keep the Gateway out; name the namespace of its Pods" }}
{{- end }}
{{- if and (not $gateway.caName) (ne .Values.security.tls.source "none") }}
{{- fail "exposure.gateway.caName is empty, and the services speak TLS: name the object with the authority that signed their certificate" }}
{{- end }}
{{- end }}
{{- if $ingress.enabled }}
{{- if not $ingress.tlsSecretName }}
{{- fail "exposure.ingress is enabled without exposure.ingress.tlsSecretName; gRPC through an Ingress needs TLS" }}
{{- end }}
{{- if not $ingress.dataNamespace }}
{{- fail "exposure.ingress.dataNamespace is empty, so the NetworkPolicy would keep the Ingress out; name the namespace of its Pods" }}
{{- end }}
{{- if $.Values.security.tls.clientCaSecret }}
{{- fail "security.tls.clientCaSecret asks for client certificates, and an Ingress shows gRPC services none, so that exposure.ingress would carry no call; leave one of them out, or let serving.service.type LoadBalancer lead to the Pods' own TLS" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "eagerly.checkTraining" -}}
{{- $training := .Values.training -}}
{{- if $training.enabled }}
{{- $any := false }}
{{- range $name, $group := $training.groups }}
{{- if $group.enabled }}
{{- $any = true }}
{{- if gt ($group.minReplicas | int) ($group.maxReplicas | int) }}
{{- fail (printf "training.groups.%s.minReplicas is %v and maxReplicas %v; the least must not exceed the most" $name $group.minReplicas $group.maxReplicas) }}
{{- end }}
{{- if and (gt ($group.maxReplicas | int) 1) (not (include "eagerly.trainingClaim" $)) }}
{{- fail (printf "training.groups.%s.maxReplicas is %v, and Pods of one run share its folder: set training.storage.existingClaim, or size, to a volume that is ReadWriteMany" $name $group.maxReplicas) }}
{{- end }}
{{- end }}
{{- end }}
{{- if not $any }}
{{- fail "no group under training.groups is enabled; enable one, or set training.enabled to false" }}
{{- end }}
{{- if not (get $training.groups $training.job.group).enabled }}
{{- fail (printf "training.job.group is %s, and training.groups.%s is not enabled" $training.job.group $training.job.group) }}
{{- end }}
{{- else if .Values.retraining.tasks }}
{{- fail "retraining.tasks needs the training cluster, and training.enabled is false" }}
{{- end }}
{{- range .Values.retraining.flags }}
{{- if regexMatch "(?i)(password|token|secret|//[^/]*@)" . }}
{{- fail "retraining.flags holds what looks like a secret; flags stand in the open: give secrets as Secrets" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "eagerly.checkTracking" -}}
{{- $tracking := .Values.tracking -}}
{{- if $tracking.enabled }}
{{- if $tracking.uri }}
{{- fail (printf "tracking.uri is %q, and tracking.enabled makes an MLflow server; give one of them" $tracking.uri) }}
{{- end }}
{{- if $tracking.authSecret }}
{{- fail "tracking.authSecret is for an MLflow of your own; the one that is made has its own users" }}
{{- end }}
{{- if and (eq $tracking.artifacts.store "s3") (not $tracking.artifacts.s3.uri) }}
{{- fail "tracking.artifacts.store is s3, and tracking.artifacts.s3.uri says not where; give s3://bucket/path" }}
{{- end }}
{{- if and (eq .Values.database.kind "external") (not .Values.database.external.secretName) }}
{{- fail "database.kind is external, and database.external.secretName names no Secret with its address" }}
{{- end }}
{{- if and (eq .Values.database.kind "internal") .Values.database.external.secretName }}
{{- fail (printf "database.external.secretName is %q, and database.kind internal would not use it; set the kind to external" .Values.database.external.secretName) }}
{{- end }}
{{- range $tracking.allowedHosts }}
{{- if eq . "*" }}
{{- fail "tracking.allowedHosts has *, which lets any web page reach MLflow through its reader's browser; name hosts" }}
{{- end }}
{{- end }}
{{- else if and (or .Values.serving.enabled .Values.training.enabled) (not $tracking.uri) }}
{{- fail "tracking.enabled is false, and tracking.uri names no MLflow of yours; models come from there" }}
{{- end }}
{{- if regexMatch "//[^/]*@" $tracking.uri }}
{{- fail "tracking.uri holds a user or a password, which values must not; give them as tracking.authSecret" }}
{{- end }}
{{- end }}

{{/* URLs among the values that the NetworkPolicies would cut off. */}}
{{- define "eagerly.checkEgress" -}}
{{- $tracking := .Values.tracking -}}
{{- $s3 := and $tracking.enabled (eq $tracking.artifacts.store "s3") -}}
{{- $urls := dict "serving.options.otlpEndpoint" (ternary .Values.serving.options.otlpEndpoint "" .Values.serving.enabled) }}
{{- $_ := set $urls "tracking.uri" $tracking.uri }}
{{- $_ := set $urls "tracking.artifacts.s3.endpoint" (ternary $tracking.artifacts.s3.endpoint "" $s3) }}
{{- $policy := .Values.networkPolicy -}}
{{- $open := list }}
{{- range $policy.egress.internetPorts }}{{ $open = append $open (int . | toString) }}{{ end }}
{{- range $name, $url := ternary $urls dict (and $policy.enabled $policy.egress.enabled) }}
{{- if $url }}
{{- $usual := ternary "443" "80" (hasPrefix "https:" $url) }}
{{- $port := regexFind ":[0-9]+$" (urlParse $url).host | trimPrefix ":" | default $usual | int }}
{{- if not (has ($port | toString) $open) }}
{{- fail (printf "%s is reached on port %d, which networkPolicy.egress.internetPorts closes; add %d to that list" $name $port $port) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "eagerly.checkMonitoring" -}}
{{- if and .Values.monitoring.rules (not (.Files.Get "files/rules.yaml")) }}
{{- fail "monitoring.rules is true, and this chart was packed without files/rules.yaml" }}
{{- end }}
{{- end }}
