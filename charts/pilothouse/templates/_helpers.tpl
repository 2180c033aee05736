{{- define "pilothouse.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "pilothouse.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "pilothouse.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "pilothouse.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "pilothouse.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{ include "pilothouse.selector" . }}
{{- end -}}

{{- define "pilothouse.selector" -}}
app.kubernetes.io/name: {{ include "pilothouse.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: controller
{{- end -}}

{{- define "pilothouse.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "pilothouse.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name is needed when serviceAccount.create is false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "pilothouse.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* The namespaces to manage, as a JSON list; empty with clusterWide. */}}
{{- define "pilothouse.namespaces" -}}
{{- if .Values.rbac.clusterWide -}}
{{- if .Values.agentNamespaces -}}
{{- fail "agentNamespaces and rbac.clusterWide exclude each other: list namespaces, or ask for all of them" -}}
{{- end -}}
[]
{{- else -}}
{{- $namespaces := .Values.agentNamespaces -}}
{{- if not .Values.rbac.allowReleaseNamespace -}}
{{- if not $namespaces -}}
{{- fail "no namespace for agents: set agentNamespaces, for example agentNamespaces={agents} (or rbac.allowReleaseNamespace=true to use the release's own: who may create Agents or Syncs there can read the Secrets beside the controller)" -}}
{{- else if has .Release.Namespace $namespaces -}}
{{- fail (printf "agentNamespaces contains %s, where the controller itself runs: who may create Agents or Syncs there can read the Secrets beside it. Choose another namespace, or set rbac.allowReleaseNamespace=true" .Release.Namespace) -}}
{{- end -}}
{{- end -}}
{{- default (list .Release.Namespace) $namespaces | uniq | sortAlpha | toJson -}}
{{- end -}}
{{- end -}}

{{/*
Names of cluster-wide objects, and of those in namespaces that releases share. No namespace and no release has a colon in its
name, so those of two releases never meet.
*/}}
{{- define "pilothouse.unique" -}}
{{- printf "%s:%s" (include "pilothouse.fullname" .) .Release.Namespace -}}
{{- end -}}

{{/* Where the history is kept: postgres, sqlite or none. */}}
{{- define "pilothouse.history" -}}
{{- with .Values.history -}}
{{- if eq (toString .enabled) "false" -}}
none
{{- else if .database.existingSecret.name -}}
postgres
{{- else if eq (int $.Values.controller.replicas) 1 -}}
sqlite
{{- else if eq (toString .enabled) "true" -}}
{{- fail "several replicas share no file: name a PostgreSQL database in history.database.existingSecret, or set history.enabled=auto or controller.replicas=1" -}}
{{- else -}}
none
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "pilothouse.syncRole" -}}
{{- printf "%s:sync" (include "pilothouse.unique" .) -}}
{{- end -}}

{{/*
What the controller may do where agents live: the same rules as a Role or as a ClusterRole. Each has its caller in the table of
tests/it/chart/rights.rs.
*/}}
{{- define "pilothouse.rules" -}}
- apiGroups: [pilothouse.dev]
  resources: [repositories, syncs, agents, agenttemplates, tasks, crontasks]
  verbs: [list, watch]
- apiGroups: [pilothouse.dev]
  resources: [repositories/status, syncs/status, agents/status, agenttemplates/status, tasks/status, crontasks/status]
  verbs: [patch]
# Before an answer that counts, the object itself is read and not the cache. Finalizers and labels that the controller sets
# have field managers of their own.
- apiGroups: [pilothouse.dev]
  resources: [syncs, agents]
  verbs: [get, patch]
# The label of a Task's agent, the cleanup of finished Tasks, those that verify a new revision of an agent, and those of CronTasks.
- apiGroups: [pilothouse.dev]
  resources: [tasks]
  verbs: [get, create, patch, delete]
# A CronTask is read before its first Task. The annotation that asks for a run by hand gets a time, and is taken away.
- apiGroups: [pilothouse.dev]
  resources: [crontasks]
  verbs: [get, patch]
# The readiness gate of a pod whose revision is verified.
- apiGroups: [""]
  resources: [pods/status]
  verbs: [patch]
# ownerReferences that block deletion, where the API server checks them, and the finalizer of a Sync.
- apiGroups: [pilothouse.dev]
  resources: [syncs/finalizers, agents/finalizers, crontasks/finalizers]
  verbs: [update]
# Credentials of Repositories and Agents are read; each agent's password is created, and never changed.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch, create]
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, watch, create, patch, delete]
# Those of a deleted Agent go with it.
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, patch]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch]
# Tasks; the patch tells the kubelet to look at a changed ConfigMap now.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
# A Sync is applied as the ServiceAccount that it names, with that account's rights and no others.
- apiGroups: [""]
  resources: [serviceaccounts]
  verbs: [impersonate]
{{- end -}}

{{- define "pilothouse.receiver.name" -}}
{{ include "pilothouse.fullname" . }}-receiver
{{- end -}}

{{- define "pilothouse.receiver.selector" -}}
app.kubernetes.io/name: {{ include "pilothouse.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: receiver
{{- end -}}

{{- define "pilothouse.receiver.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{ include "pilothouse.receiver.selector" . }}
{{- end -}}

{{- define "pilothouse.receiver.account" -}}
{{- with .Values.receiver.serviceAccount -}}
{{- if .create -}}
{{- default (include "pilothouse.receiver.name" $) .name -}}
{{- else -}}
{{- required "receiver.serviceAccount.name is needed when receiver.serviceAccount.create is false" .name -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What the receiver may do where Repositories live. */}}
{{- define "pilothouse.receiver.rules" -}}
# Of patch it uses the reconcile annotation alone; the admission policy refuses the rest.
- apiGroups: [pilothouse.dev]
  resources: [repositories]
  verbs: [list, watch, patch]
# The Secrets that Repositories name in spec.webhook, by name: it can list none.
- apiGroups: [""]
  resources: [secrets]
  {{- with .Values.receiver.secretNames }}
  resourceNames: {{- toYaml . | nindent 4 }}
  {{- end }}
  verbs: [get]
{{- end -}}
