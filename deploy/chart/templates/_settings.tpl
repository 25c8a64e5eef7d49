{{- define "podwire.settings" -}}
# Settings of `podwire agent`; PODWIRE_NODE_NAME and PODWIRE_NODE_IP come from the DaemonSet.
shim = "/usr/lib/podwire/podwire-shim"
proc_sys = "/host/proc/sys"
set_aside = true
cluster_duties = false
lease_namespace = "{{ .Release.Namespace }}"
health_port = 9098
mtu = {{ .Values.mtu }}
api_server = "{{ .Values.apiServer }}"
policy.enforce = "{{ .Values.policyEnforce }}"
{{ end -}}
