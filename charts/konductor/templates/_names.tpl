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

{{/* Which namespaces konductor looks at: not those that a cluster, or konductor itself, needs in order to start. */}}
{{- define "konductor.namespaceSelector" -}}
matchExpressions:
  - key: kubernetes.io/metadata.name
    operator: NotIn
    values: [kube-system, {{ .Release.Namespace }}]
{{- end }}

{{/* The primitives, as RBAC names them. */}}
{{- define "konductor.primitives" -}}
[mutexes, rwmutexes, leases, semaphores, onces, waitgroups, barriers, gates]
{{- end }}

{{/* Those of them that can be held, and carry konductor's finalizer then. */}}
{{- define "konductor.holdable" -}}
[mutexes, rwmutexes, leases, semaphores, onces, waitgroups]
{{- end }}
