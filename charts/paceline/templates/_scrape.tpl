{{/* One endpoint of a ServiceMonitor. Dashboards and rules know the job by its name, whatever the release is called. */}}
{{- define "paceline.scrape" -}}
port: {{ .port }}
path: /metrics
scheme: {{ .scheme }}
interval: {{ .root.Values.serviceMonitor.interval }}
scrapeTimeout: {{ .root.Values.serviceMonitor.scrapeTimeout }}
{{- if eq .scheme "https" }}
{{- with .root.Values.serviceMonitor.tlsConfig }}
tlsConfig:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- if .secret.name }}
authorization:
  type: Bearer
  credentials: {name: {{ .secret.name }}, key: {{ .secret.key }}}
{{- end }}
relabelings:
  - {action: replace, targetLabel: job, replacement: {{ .job }}}
{{- end -}}
