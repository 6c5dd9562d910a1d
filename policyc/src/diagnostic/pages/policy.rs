//! Pages of the codes about the validity of an AuthorizationPolicy.

use super::{Code, Page};

pub const PAGES: &[(Code, Page)] = &[
    (
        Code::UnknownAction,
        Page {
            title: "The action does not exist",
            example: "action: BLOCK",
            reason: "The actions are ALLOW, DENY, AUDIT and CUSTOM, in capitals.",
            fix: "Write one of the four; without `action` a policy is an ALLOW policy.",
        },
    ),
    (
        Code::SelectorAndTarget,
        Page {
            title: "A policy has both a selector and a target",
            example: r#"selector:
  matchLabels: {app: web}
targetRefs:
- {group: gateway.networking.k8s.io, kind: Gateway, name: edge}"#,
            reason: "A policy attaches to pods by their labels, or to other objects by reference. Istio rejects a policy that has both.",
            fix: "Keep one; write two policies where both are meant.",
        },
    ),
    (
        Code::SelectorLabel,
        Page {
            title: "A label of the selector is empty or has a wildcard",
            example: r#"selector:
  matchLabels:
    app: web-*"#,
            reason: "Selectors compare labels exactly. A `*` would be compared as a star, so the policy would select nothing.",
            fix: "Name the label's whole value; write one policy for each value, or give the pods a common label.",
        },
    ),
    (
        Code::EmptySelector,
        Page {
            title: "The selector has no labels",
            example: "selector: {}",
            reason: "A selector without labels selects every workload of the namespace, or of the whole mesh in the root namespace. It often means that the labels were forgotten.",
            fix: "Name the labels, or remove `selector` to say that every workload is meant.",
        },
    ),
    (
        Code::BadTargetRef,
        Page {
            title: "A target reference is not one that Istio accepts",
            example: r#"targetRefs:
- kind: Deployment
  name: web"#,
            reason: "Policies attach to a Gateway or GatewayClass of gateway.networking.k8s.io, a ServiceEntry of networking.istio.io, or a Service; by name, in the policy's own namespace.",
            fix: "Select pods with `selector`, or name one of these kinds with its group.",
        },
    ),
    (
        Code::Provider,
        Page {
            title: "The provider is missing, or has no meaning with this action",
            example: r#"action: CUSTOM
rules: [{}]"#,
            reason: "A CUSTOM policy asks an external authorizer, which `provider.name` names. Other actions ask nobody.",
            fix: "Name one of the mesh's `extensionProviders` in a CUSTOM policy; remove `provider` from others.",
        },
    ),
    (
        Code::CustomAttribute,
        Page {
            title: "A CUSTOM policy uses an attribute that is not known yet",
            example: r#"action: CUSTOM
rules:
- from:
  - source:
      principals: ["*"]"#,
            reason: "The external authorizer is asked before identities and tokens are verified, so rules of CUSTOM policies cannot look at them.",
            fix: "Check identities in an ALLOW or DENY policy, which is judged as well.",
        },
    ),
    (
        Code::NoRules,
        Page {
            title: "A DENY or CUSTOM policy has no rules",
            example: "action: DENY",
            reason: "A policy without rules matches nothing. For ALLOW that is useful: it makes the workload default-deny. A DENY or CUSTOM policy would never do anything.",
            fix: "To match every request write `rules: [{}]`. To deny by default write an ALLOW policy with `spec: {}`.",
        },
    ),
    (
        Code::EmptyRulePart,
        Page {
            title: "A rule, source or operation is empty",
            example: r#"rules:
- from:
  - source: {}"#,
            reason: "An empty part could be read as `everything` or as `nothing`. Istio rejects it, so that nobody has to guess.",
            fix: "Remove the part to match everything, or fill it.",
        },
    ),
    (
        Code::EmptyValue,
        Page {
            title: "A value is the empty string",
            example: r#"principals: [""]"#,
            reason: "No attribute is compared with an empty text; most likely a template left a gap.",
            fix: r#"Write the value. `"*"` matches any value that is present."#,
        },
    ),
    (
        Code::BadIpBlock,
        Page {
            title: "A value is neither an address nor a CIDR block",
            example: r#"ipBlocks: ["10.0.0.0/33", "10.0.0.1:80", "example.com"]"#,
            reason: "Blocks are an IPv4 or IPv6 address, alone or with a prefix length. Ports, ranges, names and numbers with leading zeros are not possible.",
            fix: "Write `10.1.2.3` or `10.1.0.0/16`. Bits behind the prefix are ignored.",
        },
    ),
    (
        Code::BadPort,
        Page {
            title: "A value is not a port",
            example: r#"ports: ["http", "8000-9000", "70000"]"#,
            reason: "A port is one decimal number from 0 to 65535. It is the port that the pod listens on, not the port of a Service.",
            fix: r#"List each port: `ports: ["8000", "8001"]`."#,
        },
    ),
    (
        Code::BadServiceAccount,
        Page {
            title: "A value is not a service account",
            example: r#"serviceAccounts: ["cluster.local/ns/shop/sa/web", "shop/*"]"#,
            reason: "A service account is `namespace/name`, or `name` in the namespace of the policy. There are no wildcards.",
            fix: "Write `shop/web`. For a whole namespace use `namespaces`; for an identity with its trust domain, `principals`.",
        },
    ),
    (
        Code::MixedIdentity,
        Page {
            title: "Service accounts are mixed with principals or namespaces",
            example: r#"source:
  serviceAccounts: ["web"]
  namespaces: ["shop"]"#,
            reason: "A service account has its namespace in it, so the second field would contradict it or add nothing. Istio rejects the mixture.",
            fix: r#"Write `serviceAccounts: ["shop/web"]` alone, or two sources, which are alternatives."#,
        },
    ),
    (
        Code::BadTrustDomain,
        Page {
            title: "A value is not a trust domain",
            example: r#"trustDomains: ["spiffe://cluster.local", "a*b"]"#,
            reason: "A trust domain is a name without slashes. One `*` may stand at one end, or alone.",
            fix: "Write `cluster.local`, `*.example`, or `*`.",
        },
    ),
    (
        Code::BadPathTemplate,
        Page {
            title: "A path is not a valid template",
            example: r#"paths: ["/users/{id}", "/a/{**}/b/{*}"]"#,
            reason: "In a template a segment is plain text, `{*}` for exactly one segment, or `{**}` for the rest; `{**}` comes after all `{*}`, and plain text may follow it. Variables have no names, and a bare `*` is not plain text.",
            fix: "Write `/users/{*}`. Without braces a `*` at one end of the whole path is a prefix or suffix.",
        },
    ),
    (
        Code::ConditionKey,
        Page {
            title: "The key of a condition does not exist",
            example: r#"when:
- key: request.header[x-token]
  values: ["a"]"#,
            reason: "Keys: request.headers[NAME], source.ip, remote.ip, source.namespace, source.principal, source.serviceAccount, source.trustDomain, request.auth.principal, request.auth.audiences, request.auth.presenter, request.auth.claims[NAME], destination.ip, destination.port, connection.sni, experimental.envoy.filters.NAME[KEY]. A rule with another key would never be looked at, in a DENY policy as well.",
            fix: "Correct the key. What applies to the destination is said by the policy's namespace and selector.",
        },
    ),
    (
        Code::ConditionValues,
        Page {
            title: "A condition has no values",
            example: r#"when:
- key: source.namespace"#,
            reason: "A condition compares an attribute with `values`, with `notValues`, or with both. With neither it says nothing.",
            fix: r#"Write `values: ["*"]` to ask that the attribute is present."#,
        },
    ),
    (
        Code::TooMany,
        Page {
            title: "A list is longer than the API accepts",
            example: "rules with 600 items",
            reason: "The schema bounds lists: 512 rules, 512 sources or operations in a rule, 16 targets, 16 service accounts.",
            fix: "Split the policy or the rule: policies of one action, rules, sources and operations are all alternatives.",
        },
    ),
    (
        Code::DryRun,
        Page {
            title: "The dry-run annotation is not one that Istio accepts",
            example: r#"metadata:
  annotations:
    istio.io/dry-run: "yes""#,
            reason: "The annotation rehearses ALLOW and DENY policies: what they would decide is reported, and never enforced. Another value, action or kind is an error, because a policy that is believed to be a rehearsal must not be enforced, nor the other way round.",
            fix: r#"Write "true" or "false" in quotes, or remove the annotation."#,
        },
    ),
    (
        Code::HttpOnlyDeny,
        Page {
            title: "A DENY rule uses only HTTP fields",
            example: r#"action: DENY
rules:
- to:
  - operation:
      paths: ["/admin"]"#,
            reason: "On a port that does not speak HTTP there is no method, path, host or token. Istio then drops the field from a DENY rule, so the rule gets wider and denies all traffic to that port.",
            fix: r#"Name the ports that the rule is meant for: `ports: ["8080"]` beside `paths`."#,
        },
    ),
];
