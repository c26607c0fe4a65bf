{{- define "seriatim.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 45 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 45 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What selects the pods; a role is added where there is one. Never changes over versions. */}}
{{- define "seriatim.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "seriatim.labels" -}}
{{ include "seriatim.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "seriatim.image" -}}
{{- with .Values.image -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end -}}
{{- end -}}
{{- end -}}

{{- define "seriatim.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "seriatim.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{/* A role's values over the defaults: (dict "root" $ "role" NAME). As JSON, to be read by fromJson. */}}
{{- define "seriatim.role" -}}
{{- mergeOverwrite (deepCopy .root.Values.defaults) (deepCopy (get .root.Values.roles .role)) | toJson -}}
{{- end -}}

{{/* The restricted profile of the Pod Security Standards, and no more. */}}
{{- define "seriatim.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: { type: RuntimeDefault }
{{- end -}}

{{- define "seriatim.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end -}}

{{/* What the chart sets over the configuration. */}}
{{- define "seriatim.env" -}}
- { name: SERIATIM_CONFIG, value: /etc/seriatim/seriatim.toml }
- { name: SERIATIM_INGRESS__HTTP, value: "0.0.0.0:8080" }
- { name: SERIATIM_ADMIN__LISTEN, value: "0.0.0.0:8090" }
- { name: SERIATIM_PROCESS__DRAIN, value: "{{ .Values.drainSeconds }}s" }
- { name: SERIATIM_PROCESS__LOG, value: json }
{{- with .Values.env }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "seriatim.mounts" -}}
- { name: config, mountPath: /etc/seriatim, readOnly: true }
- { name: tmp, mountPath: /tmp }
{{- range .Values.secrets }}
- { name: secret-{{ .name }}, mountPath: /run/secrets/seriatim/{{ .name }}, readOnly: true }
{{- end }}
{{- end -}}

{{/* (dict "root" $ "config" NAME-OF-THE-CONFIGMAP) */}}
{{- define "seriatim.volumes" -}}
- name: config
  configMap: { name: {{ .config }} }
- name: tmp
  emptyDir: { sizeLimit: 64Mi }
{{- range .root.Values.secrets }}
- name: secret-{{ .name }}
  secret: { secretName: {{ .secretName }}, defaultMode: 0440 }
{{- end }}
{{- end -}}
