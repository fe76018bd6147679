{{/* Labels of every object. The argument is a list: the chart's root and the part of konductor that the object serves. */}}
{{- define "konductor.labels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: konductor
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
{{- end }}

{{/* What selects konductor's serving Pods. It must never change: a Deployment's selector is immutable. */}}
{{- define "konductor.selector" -}}
app.kubernetes.io/name: konductor
app.kubernetes.io/component: server
{{- end }}

{{/* The image, for konductor's own Pods and for the containers that it adds. */}}
{{- define "konductor.image" -}}
{{- with .Values.image -}}
{{- .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ with .digest }}@{{ . }}{{ end }}
{{- end -}}
{{- end }}

{{/* What Pod Security `restricted` asks of a Pod, and of a container. */}}
{{- define "konductor.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}
{{- define "konductor.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* The webhook leaves its own namespace alone: whatever else ran there would run without its locks. */}}
{{- define "konductor.checkNamespace" -}}
{{- if or (eq .Release.Namespace "default") (hasPrefix "kube-" .Release.Namespace) -}}
{{- fail (printf "konductor needs a namespace of its own, because Pods beside it are not injected: helm install ... --namespace konductor-system --create-namespace (not %s)" .Release.Namespace) -}}
{{- end -}}
{{- end }}

{{/* Kinds of the API that have a status and can be held, as RBAC names them. */}}
{{- define "konductor.primitives" -}}
[mutexes, semaphores]
{{- end }}
