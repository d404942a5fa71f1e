{{- define "operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "operator.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains (include "operator.name" .) .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "operator.name" .) | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "operator.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- required "serviceAccount.name is needed when serviceAccount.create is false" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "operator.selector" -}}
app.kubernetes.io/name: {{ include "operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Labels of the pod of `helm test`. No Service, Deployment or policy of the operator selects them. */}}
{{- define "operator.testSelector" -}}
app.kubernetes.io/name: {{ include "operator.name" . }}-check
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "operator.labels" -}}
{{ include "operator.selector" . }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: finetune-operator
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* The name of an image, with global.imageRegistry unless the name contains a registry. Takes the root and the name. */}}
{{- define "operator.withRegistry" -}}
{{- $root := index . 0 }}
{{- $name := index . 1 }}
{{- $first := first (splitList "/" $name) }}
{{- $hasRegistry := and (contains "/" $name) (or (contains "." $first) (contains ":" $first) (eq $first "localhost")) }}
{{- if and $root.Values.global.imageRegistry (not $hasRegistry) }}
{{- trimSuffix "/" $root.Values.global.imageRegistry }}/
{{- end }}
{{- $name }}
{{- end }}

{{/* Refuses an image without a digest if global.requireDigests is true. Takes the root, the value and the image. */}}
{{- define "operator.requireDigest" -}}
{{- $root := index . 0 }}
{{- if and $root.Values.global.requireDigests (not (contains "@sha256:" (index . 2))) }}
{{- fail (printf "%s: global.requireDigests is true, and the image %s has no digest" (index . 1) (index . 2)) }}
{{- end }}
{{- end }}

{{/* An image's whole name: [registry/]repository[:tag][@digest]. Takes the root, the image and the path of its value. */}}
{{- define "operator.image" -}}
{{- $root := index . 0 }}
{{- $image := index . 1 }}
{{- $name := include "operator.withRegistry" (list $root $image.repository) }}
{{- if $image.digest }}
{{- with $image.tag }}{{ $name = printf "%s:%s" $name . }}{{ end }}
{{- $name = printf "%s@%s" $name $image.digest }}
{{- else }}
{{- $name = printf "%s:%s" $name (default $root.Chart.AppVersion $image.tag) }}
{{- end }}
{{- include "operator.requireDigest" (list $root (index . 2) $name) }}
{{- $name }}
{{- end }}

{{/* An image's name without tag and digest. */}}
{{- define "operator.imageRepository" -}}
{{- regexReplaceAll "(:[^:/@]+)?(@sha256:[0-9a-f]+)?$" . "" }}
{{- end }}

{{/* A dict of names as a CEL map, a list of names as a CEL list. */}}
{{- define "operator.celMap" -}}
{ {{- range $i, $key := keys . | sortAlpha }}{{ if $i }}, {{ end }}'{{ $key }}': '{{ get $ $key }}'{{ end -}} }
{{- end }}
{{- define "operator.celList" -}}
[{{ range $i, $each := . }}{{ if $i }}, {{ end }}'{{ $each }}'{{ end }}]
{{- end }}

{{/* The ids that pods run under; an id that is null is left to the platform. */}}
{{- define "operator.podSecurity" -}}
{{- range $id := list "runAsUser" "runAsGroup" "fsGroup" }}
{{- with get $.Values.settings.podSecurity $id }}
{{ $id }}: {{ . | int64 }}
{{- end }}
{{- end }}
{{- end }}

{{/* The volume with a token of the pod's service account, which the kubelet replaces before the token expires. */}}
{{- define "operator.apiAccess" -}}
- name: api-access
  projected:
    sources:
      - serviceAccountToken: {path: token, expirationSeconds: {{ .Values.serviceAccount.tokenSeconds }}}
      - configMap: {name: kube-root-ca.crt, items: [{key: ca.crt, path: ca.crt}]}
      - downwardAPI: {items: [{path: namespace, fieldRef: {fieldPath: metadata.namespace}}]}
{{- end }}

{{/* Egress rules of a NetworkPolicy: the API server and DNS. */}}
{{- define "operator.apiServerAndDns" -}}
# The API server. A policy applies to the addresses behind its Service, which differ from cluster to cluster.
- ports:
    {{- range .Values.networkPolicy.apiServerPorts }}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
  {{- with .Values.networkPolicy.apiServerCidrs }}
  to:
    {{- range . }}
    - ipBlock: {cidr: {{ . | quote }}}
    {{- end }}
  {{- end }}
# DNS ports anywhere, and any port of the cluster's DNS pods, which may listen elsewhere behind their Service.
- ports:
    {{- range .Values.settings.dns.ports }}
    - {port: {{ . }}, protocol: UDP}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
- to:
    - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: {{ .Values.settings.dns.namespace }}}}
      podSelector: {matchLabels: {{ toJson .Values.settings.dns.podLabels }}}
{{- end }}

{{/* The ports of a notification target, separated by commas: egress.ports, else the port of its URL. */}}
{{- define "operator.targetPorts" -}}
{{- $url := urlParse .url }}
{{- $default := ternary "443" "80" (eq $url.scheme "https") }}
{{- $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" | default $default }}
{{- join "," (default (list $port) (default dict .egress).ports) }}
{{- end }}

{{/* What the operator does in a namespace with jobs. */}}
{{- define "operator.rules" -}}
- apiGroups: [finetune.dev]
  resources: [finetunejobs]
  # delete: only after spec.ttl.afterFinished.
  verbs: [get, list, watch, delete]
- apiGroups: [finetune.dev]
  resources: [finetunejobs/status]
  verbs: [update]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
- apiGroups: [apps]
  # The cleanup record of a run: what to delete in S3 after the FineTuneJob is gone.
  resources: [controllerrevisions]
  verbs: [get, list, watch, create, delete]
- apiGroups: [""]
  # Only the uid is read: the operator ignores a cleanup record that was restored into another cluster.
  resources: [namespaces]
  verbs: [get]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  # Only Events report why a pod does not start.
  resources: [events]
  verbs: [list]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end }}

{{/* The operator's settings file: `settings` of the values, and what the chart knows. */}}
{{- define "operator.settings" -}}
{{- $settings := deepCopy .Values.settings }}
{{- $_ := set $settings "namespaces" .Values.watchNamespaces }}
{{- $_ := set $settings "operatorNamespace" .Release.Namespace }}
{{- $_ := set $settings "metricsPort" 8080 }}
{{- $_ := set $settings "healthPort" 8081 }}
{{- $_ := set $settings "trainerImage" (include "operator.image" (list . .Values.trainer.image "trainer.image.digest")) }}
{{- $_ := set $settings "slimTrainerImage" (include "operator.image" (list . .Values.trainer.slimImage "trainer.slimImage.digest")) }}
{{- $_ := set $settings "imagePullPolicy" .Values.image.pullPolicy }}
{{- $secrets := list }}
{{- range .Values.trainer.imagePullSecrets }}{{ $secrets = append $secrets .name }}{{ end }}
{{- $_ := set $settings "imagePullSecrets" $secrets }}
{{- /* Helm drops a value that is set to null, and the operator would take its default. */}}
{{- range $id := list "runAsUser" "runAsGroup" "fsGroup" }}
{{- if not (hasKey $settings.podSecurity $id) }}{{ $_ := set $settings.podSecurity $id nil }}{{ end }}
{{- end }}
{{- range $name, $profile := $settings.profiles }}
{{- with $profile.trainerImage }}
{{- $image := include "operator.withRegistry" (list $ .) }}
{{- include "operator.requireDigest" (list $ (printf "settings.profiles.%s.trainerImage" $name) $image) }}
{{- $_ := set $profile "trainerImage" $image }}
{{- end }}
{{- with $profile.store }}
{{- if not (hasKey $settings.stores .) }}
{{- fail (printf "settings.profiles.%s.store: settings.stores has no store %q" $name .) }}
{{- end }}
{{- end }}
{{- end }}
{{- range $name, $target := $settings.notifications.targets }}
{{- if and $settings.requireTls (not (hasPrefix "https://" $target.url)) }}
{{- fail (printf "settings.notifications.targets.%s.url: plain http is refused while settings.requireTls is true" $name) }}
{{- end }}
{{- end }}
{{- $duration := int $settings.lease.durationSeconds }}
{{- $renew := int $settings.lease.renewSeconds }}
{{- if ge $renew (sub $duration 2 | int) }}
{{- fail (printf "settings.lease.renewSeconds (%d) must be less than settings.lease.durationSeconds (%d) minus 2: the leader stops 2 s before its Lease expires" $renew $duration) }}
{{- end }}
{{- if and $settings.metrics.authentication (not $settings.metrics.tls) }}
{{- fail "settings.metrics.authentication needs settings.metrics.tls, because a scraper sends its token" }}
{{- end }}
{{- if and .Values.metrics.tls.secretName (not $settings.metrics.tls) }}
{{- fail "metrics.tls.secretName needs settings.metrics.tls" }}
{{- end }}
{{- $_ := set $settings.lease "name" (include "operator.fullname" .) }}
{{- toYaml $settings }}
{{- end }}
