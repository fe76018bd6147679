{{- /* One line per thing, fields separated by tabs: what ./table.awk reads. */ -}}
{{- define "number"}}{{if eq (printf "%T" .) "float64"}}{{printf "%.0f" .}}{{else}}{{.}}{{end}}{{end -}}
{{- range .items -}}
{{- $kind := .kind -}}
{{- $name := .metadata.name -}}
{{- if eq $kind "Semaphore" "Mutex" -}}
primitive{{"\t"}}{{$kind}}/{{$name}}{{"\t"}}{{with .spec}}{{with .permits}}{{template "number" .}}{{end}}{{end}}{{"\n"}}
{{- with .status}}{{range .holders -}}
holder{{"\t"}}{{$kind}}/{{$name}}{{"\t"}}{{.kind}}/{{.name}}{{"\t"}}{{with .permits}}{{template "number" .}}{{end}}{{"\t"}}{{template "number" .token}}{{"\t"}}{{.since}}{{"\n"}}
{{- end}}{{end -}}
{{- end -}}
{{- if eq $kind "Job" -}}
job{{"\t"}}{{$name}}{{"\t"}}{{with .status}}{{range .conditions}}{{if eq .status "True"}}{{if eq .type "Complete" "Failed"}}{{.type}}{{end}}{{end}}{{end}}{{end}}{{"\n"}}
{{- end -}}
{{- if eq $kind "Pod" -}}
{{- $job := "" -}}{{- range .metadata.ownerReferences}}{{if eq .kind "Job"}}{{$job = .name}}{{end}}{{end -}}
{{- $for := "" -}}{{- with .metadata.annotations}}{{with index . "konductor.io/semaphore"}}{{$for = printf "Semaphore/%s" .}}{{end}}{{with index . "konductor.io/mutex"}}{{$for = printf "Mutex/%s" .}}{{end}}{{end -}}
{{- $since := "" -}}{{- with .status}}{{range .initContainerStatuses}}{{if eq .name "konductor-acquire"}}{{with .state}}{{with .running}}{{$since = .startedAt}}{{end}}{{end}}{{end}}{{end}}{{end -}}
pod{{"\t"}}{{$name}}{{"\t"}}{{$job}}{{"\t"}}{{$for}}{{"\t"}}{{$since}}{{"\t"}}{{.metadata.creationTimestamp}}{{"\n"}}
{{- end -}}
{{- end -}}
