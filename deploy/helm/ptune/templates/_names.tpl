{{- define "ptune.name" -}}
{{- if contains "ptune" .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-ptune{{ end }}
{{- end }}

{{- define "ptune.selector" -}}
app.kubernetes.io/name: ptune
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "ptune.labels" -}}
{{ include "ptune.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "ptune.keysSecret" -}}
{{- if .Values.keys.existingSecret }}{{ .Values.keys.existingSecret }}
{{- else if .Values.keys.toml }}{{ include "ptune.name" . }}-keys
{{- end }}
{{- end }}

{{- define "ptune.claim" -}}
{{- if .Values.bundle.create.enabled }}{{ include "ptune.name" . }}-bundle
{{- else }}{{ required "bundle.existingClaim names the volume that holds the bundle; or set bundle.create.enabled" .Values.bundle.existingClaim }}
{{- end }}
{{- end }}
