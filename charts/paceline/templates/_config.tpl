{{/* What the chart reads out of Paceline's own configuration. */}}
{{- define "paceline.json" -}}
{{ .Values.config | toPrettyJson }}
{{- end -}}

{{/* HTTPS where the admin port has a certificate, for probes and scrapes. */}}
{{- define "paceline.adminScheme" -}}
{{- if dig "admin" "tls" "cert_file" "" .Values.config }}https{{ else }}http{{ end -}}
{{- end -}}

{{- define "paceline.dataScheme" -}}
{{- if dig "tls" "cert_file" "" .Values.config }}https{{ else }}http{{ end -}}
{{- end -}}

{{/* The drain (listen on, then finish what is here), and time to close files and be scraped once more. */}}
{{- define "paceline.terminationSeconds" -}}
{{- $linger := dig "drain" "linger_s" 0 .Values.config | float64 -}}
{{- $grace := dig "drain" "grace_s" 30 .Values.config | float64 -}}
{{- addf $linger $grace (float64 .Values.terminationMarginSeconds) | ceil | int -}}
{{- end -}}

{{/* Names of the Secrets whose files the configuration names, as a JSON array. */}}
{{- define "paceline.secrets" -}}
{{- $names := list -}}
{{- range regexFindAll "/run/secrets/[a-z0-9.-]+/" (.Values.config | toJson) -1 -}}
{{- $names = append $names (. | trimPrefix "/run/secrets/" | trimSuffix "/") -}}
{{- end -}}
{{- $names | uniq | sortAlpha | toJson -}}
{{- end -}}

{{/* More than one proxy at once, now or perhaps later: "true", or nothing. */}}
{{- define "paceline.several" -}}
{{- if or (gt (int .Values.replicas) 1) .Values.autoscaling.enabled }}true{{ end -}}
{{- end -}}

{{/* Ports of a list of URLs, as a JSON array; sockets of the file system have none. */}}
{{- define "paceline.ports" -}}
{{- $ports := list -}}
{{- $usual := dict "http" 80 "https" 443 "redis" 6379 "rediss" 6379 -}}
{{- range . -}}
{{- $url := urlParse . -}}
{{- if hasKey $usual $url.scheme -}}
{{- $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" | default (get $usual $url.scheme) | int -}}
{{- $ports = append $ports $port -}}
{{- end -}}
{{- end -}}
{{- $ports | uniq | toJson -}}
{{- end -}}

{{/* Where the proxy connects to for a request, as a JSON array of URLs: the server, or the HTTP proxy on the way to it. */}}
{{- define "paceline.upstreamUrls" -}}
{{- $urls := list -}}
{{- range .Values.config.upstreams -}}
{{- if kindIs "string" . -}}
{{- $urls = append $urls . -}}
{{- else -}}
{{- $urls = append $urls (default .url .http_proxy) -}}
{{- end -}}
{{- end -}}
{{- $urls | toJson -}}
{{- end -}}

{{- define "paceline.meterUrls" -}}
{{- $urls := list (dig "energy" "url" "" .Values.config) -}}
{{- range dig "energy" "domains" list .Values.config -}}
{{- $urls = append $urls (default "" .url) -}}
{{- end -}}
{{- compact $urls | toJson -}}
{{- end -}}

{{/* What cannot work is refused before anything is installed. */}}
{{- define "paceline.check" -}}
{{- if or (eq .Values.config.admin_host "localhost" "::1") (hasPrefix "127." .Values.config.admin_host) -}}
{{- fail "config.admin_host: the kubelet's probes come from outside the pod, so it must be 0.0.0.0 or ::" -}}
{{- end -}}
{{- if not (and .Values.config.port .Values.config.admin_port) -}}
{{- fail "config.port and config.admin_port: Services need ports that are known" -}}
{{- end -}}
{{- $several := include "paceline.several" . -}}
{{- $shared := dig "shared" "url" "" .Values.config -}}
{{- if and $several (dig "experiments" "path" "" .Values.config) (not $shared) -}}
{{- fail "config.experiments.path with more than one replica needs config.shared.url: each proxy would run an experiment of its own on the same servers" -}}
{{- end -}}
{{- if and $several .Values.persistence.enabled (not .Values.persistence.existingClaim) (not (has "ReadWriteMany" .Values.persistence.accessModes)) -}}
{{- fail "persistence with more than one replica needs persistence.accessModes: [ReadWriteMany]; each pod writes in a folder of its own" -}}
{{- end -}}
{{- if and .Values.meter.enabled (not .Values.meter.keySecret.name) (not .Values.meter.open) -}}
{{- fail "meter.enabled needs meter.keySecret.name and .key (what callers must show), or meter.open: true, which lets everybody ask" -}}
{{- end -}}
{{- end -}}
