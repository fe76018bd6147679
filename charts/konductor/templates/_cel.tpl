{{/*
Pieces of the CEL expressions in webhooks.yaml and policies.yaml. Each is safe on an object without annotations or labels: every access
stands behind a has(). A path is that of an object's metadata, such as `object.metadata`.
*/}}

{{/* k is a key of konductor's: a person's or konductor's own. */}}
{{- define "cel.ours" -}}
(k.startsWith('konductor.io/') || k.startsWith('status.konductor.io/'))
{{- end }}

{{/* PATH has annotations of konductor's. */}}
{{- define "cel.annotated" -}}
(has({{ . }}.annotations) && {{ . }}.annotations.exists(k, {{ include "cel.ours" . }}))
{{- end }}

{{/* PATH has annotations that a person wrote for konductor. */}}
{{- define "cel.annotatedByUser" -}}
(has({{ . }}.annotations) && {{ . }}.annotations.exists(k, k.startsWith('konductor.io/')))
{{- end }}

{{/* PATH has annotations that only konductor may write. */}}
{{- define "cel.annotatedByKonductor" -}}
(has({{ . }}.annotations) && {{ . }}.annotations.exists(k, k.startsWith('status.konductor.io/')))
{{- end }}

{{/* PATH has the label of injected Pods and Jobs, with any value; the second: with the value that counts. */}}
{{- define "cel.labelled" -}}
(has({{ . }}.labels) && 'konductor.io/injected' in {{ . }}.labels)
{{- end }}
{{- define "cel.injected" -}}
(has({{ . }}.labels) && 'konductor.io/injected' in {{ . }}.labels && {{ . }}.labels['konductor.io/injected'] == 'true')
{{- end }}

{{/* The object (`object` or `oldObject`) is switched off, and was not injected before (then ours must be taken out). */}}
{{- define "cel.switchedOff" -}}
(has({{ . }}.metadata.annotations) && 'konductor.io/inject' in {{ . }}.metadata.annotations && {{ . }}.metadata.annotations['konductor.io/inject'] == 'false'
  && !{{ include "cel.labelled" (printf "%s.metadata" .) }})
{{- end }}

{{/* An annotation of konductor's is new, changed or gone. */}}
{{- define "cel.annotationsDiffer" -}}
((has(object.metadata.annotations) && object.metadata.annotations.exists(k, {{ include "cel.ours" . }}
    && !(has(oldObject.metadata.annotations) && k in oldObject.metadata.annotations && oldObject.metadata.annotations[k] == object.metadata.annotations[k])))
|| (has(oldObject.metadata.annotations) && oldObject.metadata.annotations.exists(k, {{ include "cel.ours" . }}
    && !(has(object.metadata.annotations) && k in object.metadata.annotations))))
{{- end }}

{{/*
The keys k of annotations or labels (the first argument) that fulfil a condition (the second) and that an update adds, as a list of [where, k]:
on the object and on each template in it. The templates come first: Kubernetes itself copies a Job's labels up from its template. The variable
`before` is the object before the update, or {}.
*/}}
{{- define "cel.added" -}}
{{- $field := index . 0 -}}
{{- $condition := index . 1 -}}
{{- range $index, $place := list "spec.jobTemplate.spec.template.metadata" "spec.jobTemplate.metadata" "spec.template.metadata" "metadata" }}
{{- $keys := printf ".?%s.?%s.orValue({})" (replace "." ".?" $place) $field }}
{{- if $index }}
+ {{ end -}}
object{{ $keys }}.map(k, !(k in variables.before{{ $keys }}) && {{ $condition }}, ['{{ $place }}.{{ $field }}', string(k)])
{{- end }}
{{- end }}

{{/* The request is not konductor's own. */}}
{{- define "cel.notKonductor" -}}
request.userInfo.username != 'system:serviceaccount:{{ .Release.Namespace }}:konductor'
{{- end }}
