{{- /* What the kubelet and the Job controller reported, and nothing of konductor's: what ./verdict.awk reads. */ -}}
{{- define "number"}}{{if eq (printf "%T" .) "float64"}}{{printf "%.0f" .}}{{else}}{{.}}{{end}}{{end -}}
{{- range .items -}}
{{- $name := .metadata.name -}}
{{- if eq .kind "Job" -}}
job{{"\t"}}{{$name}}{{"\t"}}{{with .spec.template.metadata.labels}}{{.app}}{{end}}{{"\t"}}{{with .status}}{{range .conditions}}{{if eq .status "True"}}{{if eq .type "Complete" "Failed"}}{{.type}}{{end}}{{end}}{{end}}{{end}}{{"\n"}}
{{- end -}}
{{- if eq .kind "Pod" -}}
{{- $app := "" -}}{{- with .metadata.labels}}{{$app = .app}}{{end -}}
{{- $job := "" -}}{{- range .metadata.ownerReferences}}{{if eq .kind "Job"}}{{$job = .name}}{{end}}{{end -}}
{{- range .status.containerStatuses -}}
{{- $container := .name -}}
{{- with .lastState}}{{with .terminated -}}
container{{"\t"}}{{$job}}{{"\t"}}{{$app}}{{"\t"}}{{.startedAt}}{{"\t"}}{{.finishedAt}}{{"\t"}}{{template "number" .exitCode}}{{"\n"}}
{{- end}}{{end -}}
{{- with .state}}{{with .terminated -}}
container{{"\t"}}{{$job}}{{"\t"}}{{$app}}{{"\t"}}{{.startedAt}}{{"\t"}}{{.finishedAt}}{{"\t"}}{{template "number" .exitCode}}{{"\n"}}
{{- end}}{{with .running -}}
container{{"\t"}}{{$job}}{{"\t"}}{{$app}}{{"\t"}}{{.startedAt}}{{"\t\t\n"}}
{{- end}}{{end -}}
{{- end -}}
{{- end -}}
{{- end -}}
