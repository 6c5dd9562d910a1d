//! Pages of the lints: what is legal and probably wrong.

use super::{Code, Page};

pub const PAGES: &[(Code, Page)] = &[
    (
        Code::NeverEffectiveAllow,
        Page {
            title: "An ALLOW policy can never take effect, because DENY denies all that it matches",
            example: r#"# one policy
selector: {matchLabels: {app: backend}}
action: DENY
rules: [{}]
# another
selector: {matchLabels: {app: backend}}
rules:
- from:
  - source: {principals: ["cluster.local/ns/default/sa/frontend"]}"#,
            reason: "DENY is looked at before ALLOW and always wins; there is no order, no priority and no exception by being more specific. A DENY rule without from, to and when matches every request. Many tutorials expect the ALLOW to be an exception to it. A narrower DENY rule does the same to each ALLOW rule that it covers.",
            fix: "Write the deny-all policy as an ALLOW policy that allows nothing, `spec: {}` with its selector: it makes the workload default-deny, and other ALLOW policies are the exceptions. `--catch-all-deny=default-deny` reads such a DENY that way without a change to the files.",
        },
    ),
    (
        Code::RedundantRule,
        Page {
            title: "Another rule already matches everything that this rule does",
            example: r#"rules:
- from:
  - source: {namespaces: ["shop"]}
- from:
  - source: {namespaces: ["shop"], ipBlocks: ["10.0.0.0/8"]}"#,
            reason: "Rules of one action are alternatives. A rule that is covered by a wider one changes nothing; either it is left over, or the wider one is wider than meant. Among more than 512 rules of a namespace, only rules of one policy are compared.",
            fix: "Remove the rule, or narrow the other one.",
        },
    ),
    (
        Code::UnmatchedSelector,
        Page {
            title: "The selector matches no workload",
            example: r#"selector:
  matchLabels:
    app: backnd"#,
            reason: "The policy protects nothing. Selectors are compared with the labels of pods, in the policy's own namespace, exactly.",
            fix: "Correct the labels or the namespace. If the workloads are elsewhere, give their manifests as well.",
        },
    ),
    (
        Code::UnmatchedPrincipal,
        Page {
            title: "No workload has this identity",
            example: r#"principals: ["cluster.local/ns/default/sa/frontend"]
# and Deployment frontend without serviceAccountName"#,
            reason: "A principal names a service account, not a Deployment. A pod without `serviceAccountName` runs as `default`, so an identity named after the Deployment belongs to nobody, and the rule matches nobody; under a not-form it excludes nobody.",
            fix: "Set `serviceAccountName` in the pod template, or name the account that the pods run as.",
        },
    ),
    (
        Code::UnmatchedNamespace,
        Page {
            title: "No namespace has this name",
            example: r#"namespaces: ["shopp"]"#,
            reason: "The rule matches nobody from there.",
            fix: "Correct the name, or give the manifests of that namespace as well.",
        },
    ),
    (
        Code::UnmatchedServiceAccount,
        Page {
            title: "No workload runs as this service account",
            example: r#"serviceAccounts: ["web"]"#,
            reason: "A name without a slash is in the namespace of the policy, not in that of the workload; this matters for policies of the root namespace. A pod without `serviceAccountName` runs as `default`.",
            fix: "Write `namespace/name`, or set `serviceAccountName` on the workload.",
        },
    ),
    (
        Code::Contradiction,
        Page {
            title: "A value is excluded by the not-form of the same field",
            example: r#"operation:
  methods: ["GET", "POST"]
  notMethods: ["P*"]"#,
            reason: "A field and its not-form must both hold, so the value can never match. If all values of the field are excluded, nothing matches at all. Conditions of one rule must all hold as well, with each other and with `from` and `to`.",
            fix: "Remove the value, or narrow the exclusion.",
        },
    ),
    (
        Code::DenyHttpOnTcp,
        Page {
            title: "A DENY rule with HTTP fields applies to a port that speaks TCP",
            example: r#"action: DENY
rules:
- to:
  - operation: {methods: ["DELETE"]}
# on a pod with a port named tcp-admin"#,
            reason: "A TCP port has no methods, paths, hosts or tokens. Istio drops such fields from a DENY rule there, so the rule denies every connection to the port that the rest of it matches.",
            fix: "Name the HTTP ports in `ports`. If the port does speak HTTP, say so in its name or in `appProtocol`.",
        },
    ),
    (
        Code::UndeclaredPort,
        Page {
            title: "No container declares this port",
            example: r#"operation:
  ports: ["8080"]
# on pods that declare port 80"#,
            reason: "Of the workloads that the policy applies to, those that declare ports do not declare this one, and no Service sends to it. A container may listen on ports that it does not declare, so the rule may still have an effect; more often the number is wrong.",
            fix: "Correct the port, or declare it in the container.",
        },
    ),
    (
        Code::ServicePort,
        Page {
            title: "A Service's port is written where the pods' port is meant",
            example: r#"operation:
  ports: ["80"]
# Service port 80, targetPort 8080"#,
            reason: "Policies are enforced at the pod, after the Service's port has been translated.",
            fix: "Write the target port.",
        },
    ),
    (
        Code::HostNetwork,
        Page {
            title: "A policy selects pods on the node's own network",
            example: "hostNetwork: true",
            reason: "Such pods share the node's interfaces and addresses. There is no place between them and the rest of the node where only their traffic passes.",
            fix: "Give the pods their own network, or select other workloads. The agent reports itself not ready for them.",
        },
    ),
    (
        Code::SourceRewritten,
        Page {
            title: "The caller's address is rewritten before it is judged",
            example: r#"ipBlocks: ["203.0.113.0/24"]
# on a workload behind a Service of type NodePort"#,
            reason: "With `externalTrafficPolicy: Cluster` the node that takes the call puts its own address in place of the caller's.",
            fix: "Set `externalTrafficPolicy: Local` on the Service, or check addresses at the ingress.",
        },
    ),
    (
        Code::MeshOnPod,
        Page {
            title: "The pod already has a sidecar or ambient redirection",
            example: r#"containers:
- name: istio-proxy"#,
            reason: "Traffic of such a pod is encrypted, or comes from the proxy, before it reaches the place where we judge it. HTTP fields cannot be seen, and sources may be wrong.",
            fix: "Let one of the two enforce the policies of a workload.",
        },
    ),
    (
        Code::PeerAuthentication,
        Page {
            title: "A PeerAuthentication is present",
            example: r#"kind: PeerAuthentication
spec: {mtls: {mode: STRICT}}"#,
            reason: "Mutual TLS is a promise between proxies of a mesh. Here an identity is known by the address of its pod, and what is encrypted by others is judged as TCP.",
            fix: "Remove the object where no mesh is left. Where one is, leave the workloads that it covers to it.",
        },
    ),
    (
        Code::HostWithoutPort,
        Page {
            title: "A host in a DENY rule lacks its form with a port",
            example: r#"action: DENY
rules:
- to:
  - operation: {hosts: ["admin.example"]}"#,
            reason: "The Host header is compared as it is sent, and a client may add the port: `admin.example:443` is another host to this rule. The same goes for `notHosts` in an ALLOW rule: the exception is not met, and the caller is let in.",
            fix: r#"Write both: `hosts: ["admin.example", "admin.example:*"]`."#,
        },
    ),
    (
        Code::ExactPathDeny,
        Page {
            title: "An exact path in a DENY rule is easily walked around",
            example: r#"action: DENY
rules:
- to:
  - operation: {paths: ["/admin"]}"#,
            reason: "The rule matches one spelling. Servers often treat `/admin/`, `//admin` or `/ADMIN` alike, and those are not denied. The same goes for `notPaths` in an ALLOW rule.",
            fix: "Deny a prefix, or turn it around: an ALLOW policy that lists what is allowed denies every other spelling.",
        },
    ),
    (
        Code::OverBroadSuffix,
        Page {
            title: "A suffix begins inside of a name",
            example: r#"hosts: ["*example.com"]
principals: ["*frontend"]"#,
            reason: "The star matches any text, so `evilexample.com` and an account named `evil-frontend` match as well.",
            fix: "Begin the suffix at a border: `*.example.com`, `*/sa/frontend`.",
        },
    ),
    (
        Code::TokensNotVerified,
        Page {
            title: "A rule asks for tokens that nobody verifies",
            example: r#"requestPrincipals: ["*"]
# without a RequestAuthentication"#,
            reason: "A token counts only after a RequestAuthentication has verified it. Without one, or with one that has no `jwtRules`, no request has a principal: positive rules match nothing, negative ones everything.",
            fix: "Add a RequestAuthentication for the same workloads.",
        },
    ),
    (
        Code::RootNamespace,
        Page {
            title: "A policy in the root namespace applies to the whole mesh",
            example: r#"metadata:
  namespace: istio-system
spec:
  selector: {matchLabels: {app: web}}"#,
            reason: "The root namespace's policies apply to every namespace. When all workloads that one selects are in a single other namespace, it was probably meant to live there.",
            fix: "Move the policy, unless it is meant for all namespaces, those of tomorrow included.",
        },
    ),
    (
        Code::ClosedPort,
        Page {
            title: "An ALLOW policy closes a port that no rule names",
            example: r#"rules:
- to:
  - operation: {ports: ["80"]}
# on a pod with ports 80 and 9090"#,
            reason: "As soon as one ALLOW policy applies to a workload, everything that no ALLOW rule matches is denied, on every port: metrics and health ports as well.",
            fix: "Add a rule for the port, such as one that lets the monitoring namespace in.",
        },
    ),
    (
        Code::ProbesBlocked,
        Page {
            title: "The kubelet's probes come without an identity",
            example: r#"readinessProbe: {httpGet: {path: /, port: 80}}
# under an ALLOW policy that asks for principals"#,
            reason: "Probes come from the node, which no principal names. The agent lets the probes of its own node through by default, each under its own reason.",
            fix: "Nothing, with `--host=probes`. With `--host=enforce` allow the nodes' addresses.",
        },
    ),
    (
        Code::StrayDash,
        Page {
            title: "A dash may have turned an AND into an OR",
            example: r#"rules:
- from:
  - source: {namespaces: ["shop"]}
- to:
  - operation: {methods: ["GET"]}"#,
            reason: "Each dash begins an alternative. Two rules with one part each let in everybody from `shop`, and every GET from anywhere; one rule with both parts lets in GETs from `shop`. In the same way two operations, one with methods and one with paths, let in every such method on any path.",
            fix: "If both must hold, remove the dash. If an OR is meant, write both parts into each rule to say so.",
        },
    ),
    (
        Code::ProtocolDisagreement,
        Page {
            title: "Services declare different protocols for one port",
            example: "# Service a names the port http-web, Service b tcp-web, same targetPort",
            reason: "What a port speaks decides how HTTP fields are read. When Services disagree, the port counts as undeclared, and each connection is judged by its first bytes.",
            fix: "Give both the same `appProtocol` or the same prefix of the port's name.",
        },
    ),
    (
        Code::UnknownProvider,
        Page {
            title: "The provider of a CUSTOM policy cannot be asked",
            example: r#"action: CUSTOM
provider: {name: opaa}"#,
            reason: "A provider that the mesh does not define, that is not an authorizer, or that is one of two on a workload, cannot decide. Istio then denies every request that the policy's rules match.",
            fix: "Define the provider in the MeshConfig and give that file with `--mesh`; use one provider for a workload.",
        },
    ),
    (
        Code::EmptyNamespace,
        Page {
            title: "The policy's namespace has no workloads",
            example: r#"metadata:
  name: orders
  namespace: shpo"#,
            reason: "A policy applies to workloads of its own namespace. When manifests hold workloads and none is there, the namespace is probably misspelt, and the policy protects nothing.",
            fix: "Correct the namespace, or give the manifests of its workloads as well.",
        },
    ),
    (
        Code::AcceptedWarning,
        Page {
            title: "The policy accepts a warning that there is not",
            example: r#"metadata:
  name: orders
  annotations:
    enforcer/accepted-warnings: "P999""#,
            reason: "The annotation lists warnings that are meant: they are told as notes, and do not fail `check --deny-warnings`. A code that is none, or an error's, which cannot be accepted, accepts nothing.",
            fix: "List codes as `policyc check` prints them, with commas between them, or remove the annotation.",
        },
    ),
];
