//! Which fields hold the name of another object.

use crate::api::GROUP;

/// A field that names an object.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// Group of the referring kind; empty: any.
    pub(super) group: &'static str,
    /// Referring kind.
    pub(super) kind: &'static str,
    /// See `FieldSpec::path`. Ends at a name, a list of names, or mappings with `name`.
    pub(super) path: &'static str,
}

/// A kind that is referred to.
pub(super) struct Target {
    /// Empty: any.
    pub(super) group: &'static str,
    pub(super) kind: &'static str,
    /// Below a pod's spec, wherever one stands.
    pub(super) in_pods: &'static [&'static str],
    pub(super) places: &'static [Place],
}

/// Kinds that hold a pod's spec, and where.
pub(in crate::render::kustomize) const PODS: &[(&str, &str)] = &[
    ("CronJob", "spec/jobTemplate/spec/template/spec"),
    ("DaemonSet", "spec/template/spec"),
    ("Deployment", "spec/template/spec"),
    ("Job", "spec/template/spec"),
    ("Pod", "spec"),
    ("PodTemplate", "template/spec"),
    ("ReplicaSet", "spec/template/spec"),
    ("ReplicationController", "spec/template/spec"),
    ("StatefulSet", "spec/template/spec"),
];

const fn at(kind: &'static str, path: &'static str) -> Place {
    Place { group: "", kind, path }
}

const fn ours(kind: &'static str, path: &'static str) -> Place {
    Place { group: GROUP, kind, path }
}

const RBAC: &str = "rbac.authorization.k8s.io";

pub(super) const TARGETS: &[Target] = &[
    Target { group: "", kind: "Deployment", in_pods: &[], places: SCALED },
    Target { group: "", kind: "ReplicationController", in_pods: &[], places: SCALED },
    Target { group: "", kind: "ReplicaSet", in_pods: &[], places: SCALED },
    Target { group: "", kind: "StatefulSet", in_pods: &[], places: SCALED },
    Target {
        group: "",
        kind: "ConfigMap",
        in_pods: &[
            "volumes/configMap/name",
            "volumes/projected/sources/configMap/name",
            "containers/env/valueFrom/configMapKeyRef/name",
            "containers/envFrom/configMapRef/name",
            "initContainers/env/valueFrom/configMapKeyRef/name",
            "initContainers/envFrom/configMapRef/name",
        ],
        places: CONFIG_MAPS,
    },
    Target {
        group: "",
        kind: "Secret",
        in_pods: &[
            "volumes/secret/secretName",
            "volumes/projected/sources/secret/name",
            "containers/env/valueFrom/secretKeyRef/name",
            "containers/envFrom/secretRef/name",
            "initContainers/env/valueFrom/secretKeyRef/name",
            "initContainers/envFrom/secretRef/name",
            "imagePullSecrets/name",
        ],
        places: SECRETS,
    },
    Target {
        group: "",
        kind: "Service",
        in_pods: &[],
        places: &[
            Place { group: "apps", kind: "StatefulSet", path: "spec/serviceName" },
            at("Ingress", "spec/rules/http/paths/backend/serviceName"),
            at("Ingress", "spec/backend/serviceName"),
            at("Ingress", "spec/rules/http/paths/backend/service/name"),
            at("Ingress", "spec/defaultBackend/service/name"),
            Place { group: "apiregistration.k8s.io", kind: "APIService", path: "spec/service/name" },
            Place { group: ADMISSION, kind: "ValidatingWebhookConfiguration", path: "webhooks/clientConfig/service" },
            Place { group: ADMISSION, kind: "MutatingWebhookConfiguration", path: "webhooks/clientConfig/service" },
        ],
    },
    Target {
        group: RBAC,
        kind: "Role",
        in_pods: &[],
        places: &[Place { group: RBAC, kind: "RoleBinding", path: "roleRef/name" }],
    },
    Target {
        group: RBAC,
        kind: "ClusterRole",
        in_pods: &[],
        places: &[
            Place { group: RBAC, kind: "RoleBinding", path: "roleRef/name" },
            Place { group: RBAC, kind: "ClusterRoleBinding", path: "roleRef/name" },
        ],
    },
    Target {
        group: "",
        kind: "ServiceAccount",
        in_pods: &["serviceAccountName"],
        places: &[
            Place { group: RBAC, kind: "RoleBinding", path: "subjects" },
            Place { group: RBAC, kind: "ClusterRoleBinding", path: "subjects" },
            ours("Agent", "spec/serviceAccountName"),
            ours("AgentTemplate", "spec/serviceAccountName"),
            ours("Sync", "spec/serviceAccountName"),
        ],
    },
    Target {
        group: "",
        kind: "PersistentVolumeClaim",
        in_pods: &["volumes/persistentVolumeClaim/claimName"],
        places: &[
            ours("Agent", "spec/podSpec/extraVolumes/persistentVolumeClaim/claimName"),
            ours("AgentTemplate", "spec/podSpec/extraVolumes/persistentVolumeClaim/claimName"),
        ],
    },
    Target {
        group: "",
        kind: "PersistentVolume",
        in_pods: &[],
        places: &[at("PersistentVolumeClaim", "spec/volumeName"), at("ClusterRole", "rules/resourceNames")],
    },
    Target {
        group: "storage.k8s.io",
        kind: "StorageClass",
        in_pods: &[],
        places: &[
            at("PersistentVolume", "spec/storageClassName"),
            at("PersistentVolumeClaim", "spec/storageClassName"),
            at("StatefulSet", "spec/volumeClaimTemplates/spec/storageClassName"),
            ours("Agent", "spec/persistence/sessions/storageClassName"),
            ours("Agent", "spec/persistence/workspace/storageClassName"),
        ],
    },
    Target { group: "scheduling.k8s.io", kind: "PriorityClass", in_pods: &["priorityClassName"], places: &[] },
    Target {
        group: ADMISSION,
        kind: "ValidatingAdmissionPolicy",
        in_pods: &[],
        places: &[Place { group: ADMISSION, kind: "ValidatingAdmissionPolicyBinding", path: "spec/policyName" }],
    },
    Target {
        group: GROUP,
        kind: "AgentTemplate",
        in_pods: &[],
        places: &[
            ours("Agent", "spec/templateRef/name"),
            ours("Task", "spec/templateRef/name"),
            ours("CronTask", "spec/taskTemplate/spec/templateRef/name"),
        ],
    },
    Target {
        group: GROUP,
        kind: "Agent",
        in_pods: &[],
        places: &[ours("Task", "spec/agentRef/name"), ours("CronTask", "spec/taskTemplate/spec/agentRef/name")],
    },
    Target {
        group: GROUP,
        kind: "Repository",
        in_pods: &[],
        places: &[
            ours("Sync", "spec/repositoryRef/name"),
            ours("Agent", "spec/contexts/git/repositoryRef/name"),
            ours("Agent", "spec/skills/git/repositoryRef/name"),
            ours("AgentTemplate", "spec/contexts/git/repositoryRef/name"),
            ours("AgentTemplate", "spec/skills/git/repositoryRef/name"),
            ours("Task", "spec/contexts/git/repositoryRef/name"),
            ours("CronTask", "spec/taskTemplate/spec/contexts/git/repositoryRef/name"),
        ],
    },
    Target { group: GROUP, kind: "Sync", in_pods: &[], places: &[ours("Sync", "spec/dependsOn/name")] },
];

const ADMISSION: &str = "admissionregistration.k8s.io";

const SCALED: &[Place] = &[at("HorizontalPodAutoscaler", "spec/scaleTargetRef/name")];

const CONFIG_MAPS: &[Place] = &[
    at("Node", "spec/configSource/configMap"),
    at("Role", "rules/resourceNames"),
    at("ClusterRole", "rules/resourceNames"),
    at("Ingress", "metadata/annotations/nginx.ingress.kubernetes.io\\/fastcgi-params-configmap"),
    ours("Agent", "spec/contexts/configMap/name"),
    ours("Agent", "spec/caBundle/configMapRef/name"),
    ours("Agent", "spec/podSpec/extraVolumes/configMap/name"),
    ours("Agent", "spec/podSpec/extraVolumes/projected/sources/configMap/name"),
    ours("Agent", "spec/podSpec/extraEnv/valueFrom/configMapKeyRef/name"),
    ours("AgentTemplate", "spec/contexts/configMap/name"),
    ours("AgentTemplate", "spec/caBundle/configMapRef/name"),
    ours("AgentTemplate", "spec/podSpec/extraVolumes/configMap/name"),
    ours("AgentTemplate", "spec/podSpec/extraVolumes/projected/sources/configMap/name"),
    ours("AgentTemplate", "spec/podSpec/extraEnv/valueFrom/configMapKeyRef/name"),
    ours("Task", "spec/contexts/configMap/name"),
    ours("CronTask", "spec/taskTemplate/spec/contexts/configMap/name"),
    ours("Sync", "spec/valuesFrom"),
];

const SECRETS: &[Place] = &[
    at("Ingress", "spec/tls/secretName"),
    at("Ingress", "metadata/annotations/ingress.kubernetes.io\\/auth-secret"),
    at("Ingress", "metadata/annotations/nginx.ingress.kubernetes.io\\/auth-secret"),
    at("Ingress", "metadata/annotations/nginx.ingress.kubernetes.io\\/auth-tls-secret"),
    at("ServiceAccount", "imagePullSecrets/name"),
    at("StorageClass", "parameters/secretName"),
    at("StorageClass", "parameters/adminSecretName"),
    at("StorageClass", "parameters/userSecretName"),
    at("StorageClass", "parameters/secretRef"),
    at("Role", "rules/resourceNames"),
    at("ClusterRole", "rules/resourceNames"),
    at("PersistentVolume", "spec/azureFile/secretName"),
    Place {
        group: "serving.knative.dev",
        kind: "Service",
        path: "spec/template/spec/containers/env/valueFrom/secretKeyRef/name",
    },
    ours("Agent", "spec/credentials/secretRef/name"),
    ours("Agent", "spec/contexts/git/secretRef/name"),
    ours("Agent", "spec/contexts/url/secretRef/name"),
    ours("Agent", "spec/skills/git/secretRef/name"),
    ours("Agent", "spec/caBundle/secretRef/name"),
    ours("Agent", "spec/imagePullSecrets/name"),
    ours("Agent", "spec/podSpec/extraVolumes/secret/secretName"),
    ours("Agent", "spec/podSpec/extraVolumes/projected/sources/secret/name"),
    ours("Agent", "spec/podSpec/extraEnv/valueFrom/secretKeyRef/name"),
    ours("AgentTemplate", "spec/credentials/secretRef/name"),
    ours("AgentTemplate", "spec/contexts/git/secretRef/name"),
    ours("AgentTemplate", "spec/contexts/url/secretRef/name"),
    ours("AgentTemplate", "spec/skills/git/secretRef/name"),
    ours("AgentTemplate", "spec/caBundle/secretRef/name"),
    ours("AgentTemplate", "spec/imagePullSecrets/name"),
    ours("AgentTemplate", "spec/podSpec/extraVolumes/secret/secretName"),
    ours("AgentTemplate", "spec/podSpec/extraVolumes/projected/sources/secret/name"),
    ours("AgentTemplate", "spec/podSpec/extraEnv/valueFrom/secretKeyRef/name"),
    ours("Task", "spec/contexts/git/secretRef/name"),
    ours("Task", "spec/contexts/url/secretRef/name"),
    ours("CronTask", "spec/taskTemplate/spec/contexts/git/secretRef/name"),
    ours("CronTask", "spec/taskTemplate/spec/contexts/url/secretRef/name"),
    ours("Repository", "spec/secretRef/name"),
    ours("Repository", "spec/proxySecretRef/name"),
    ours("Repository", "spec/verify/secretRef/name"),
    ours("Sync", "spec/decryption/secretRef/name"),
    ours("Sync", "spec/valuesFrom"),
];
