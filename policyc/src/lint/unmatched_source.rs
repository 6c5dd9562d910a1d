//! Principals, namespaces and service accounts that no given workload has.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet, HashMap},
};

use super::world::World;
use crate::{
    ast::AuthorizationPolicy,
    diagnostic::{Code, Diagnostic, Path, Severity},
    ir::Pattern,
    read::node::nearest,
};

/// Findings that name what is near; looking through all names for every one would take too long.
const SUGGESTIONS_MAX: usize = 200;

/// The identities of the given workloads.
struct Identities<'a> {
    /// Namespace to service accounts that pods run as.
    accounts: BTreeMap<&'a str, BTreeSet<&'a str>>,
    namespaces: BTreeSet<&'a str>,
    /// A service account to the first namespace that has it.
    home: BTreeMap<&'a str, &'a str>,
    /// Patterns, and whether an identity matches.
    matched: RefCell<HashMap<String, bool>>,
    suggestions: Cell<usize>,
}

impl<'a> Identities<'a> {
    fn new(world: &World<'a>) -> Self {
        let mut known = Self {
            accounts: BTreeMap::new(),
            namespaces: world.namespaces().collect(),
            home: BTreeMap::new(),
            matched: RefCell::default(),
            suggestions: Cell::new(SUGGESTIONS_MAX),
        };
        let declared = world.cluster.namespaces.keys();
        known.namespaces.extend(declared.map(String::as_str));
        for target in &world.targets {
            let account = target.template.service_account.as_str();
            let accounts = known.accounts.entry(target.namespace).or_default();
            accounts.insert(account);
            let home = known.home.entry(account).or_insert(target.namespace);
            *home = (*home).min(target.namespace);
        }
        known
    }

    /// Whether something matches a pattern, looked for once.
    fn matches(&self, pattern: &str, look: impl FnOnce() -> bool) -> bool {
        if let Some(known) = self.matched.borrow().get(pattern) {
            return *known;
        }
        let matched = look();
        self.matched.borrow_mut().insert(pattern.into(), matched);
        matched
    }

    /// The name that was probably meant, as long as there are few findings.
    fn nearest<'c>(&self, text: &str, names: impl Iterator<Item = &'c str>) -> Option<&'c str> {
        let left = self.suggestions.get().checked_sub(1)?;
        self.suggestions.set(left);
        nearest(text, names)
    }
}

pub fn lint(world: &World<'_>) -> Vec<Diagnostic> {
    // Without workloads nothing is known about who exists.
    if world.targets.is_empty() {
        return Vec::new();
    }
    let known = Identities::new(world);
    let mut found = Vec::new();
    for (number, policy) in world.policies() {
        // A not-form that names nobody excludes nobody: a misspelt one is as bad.
        for field in world.fields(number) {
            for (i, value) in field.values.iter().enumerate() {
                let problem = match field.name {
                    "principals" | "notPrincipals" | "source.principal" => {
                        principal(world, &known, value)
                    }
                    "namespaces" | "notNamespaces" | "source.namespace" => namespace(&known, value),
                    "serviceAccounts" | "notServiceAccounts" | "source.serviceAccount" => {
                        service_account(world, &known, policy, value)
                    }
                    _ => None,
                };
                if let Some((code, message, help)) = problem {
                    let path = field.path().index(i);
                    found.push(report(world, policy, path, code, message, help));
                }
            }
        }
    }
    found
}

type Problem = (Code, String, String);

fn report(
    world: &World<'_>,
    policy: &AuthorizationPolicy,
    path: Path,
    code: Code,
    message: String,
    help: String,
) -> Diagnostic {
    world.about(policy, code, Severity::Warning, path, message, help)
}

fn principal(world: &World<'_>, known: &Identities<'_>, value: &str) -> Option<Problem> {
    let code = Code::UnmatchedPrincipal;
    let mesh = &world.cluster.mesh;
    let segments: Vec<&str> = value.split('/').collect();
    if let [domain, "ns", namespace, "sa", account] = segments.as_slice()
        && !value.contains('*')
    {
        let aliases = mesh.trust_domain_aliases.iter();
        let mut domains = aliases.chain([&mesh.trust_domain]);
        // ISTIO: `cluster.local` stands for the mesh's own trust domain.
        if *domain != "cluster.local" && !domains.any(|d| d == domain) {
            let message = format!("`{domain}` is not a trust domain of this mesh");
            let help = format!(
                "write `{}/ns/{namespace}/sa/{account}`, or add the domain to the MeshConfig",
                mesh.trust_domain
            );
            return Some((code, message, help));
        }
        if has(known, namespace, account) {
            return None;
        }
        let message = format!("no workload runs as `{value}`");
        let help = who_was_meant(world, known, namespace, account, |ns, sa| {
            format!("{domain}/ns/{ns}/sa/{sa}")
        });
        return Some((code, message, help));
    }
    let pattern = Pattern::parse(value);
    let mut domains = vec![mesh.trust_domain.as_str(), "cluster.local"];
    domains.extend(mesh.trust_domain_aliases.iter().map(String::as_str));
    let matched = known.matches(value, || {
        let mut all = known.accounts.iter();
        all.any(|(namespace, accounts)| {
            accounts.iter().any(|account| {
                domains
                    .iter()
                    .any(|domain| pattern.matches(&format!("{domain}/ns/{namespace}/sa/{account}")))
            })
        })
    });
    let help = "principals look like `cluster.local/ns/NAMESPACE/sa/SERVICE-ACCOUNT`, without \
                `spiffe://`";
    (!matched).then(|| {
        let message = format!("no workload has an identity that matches `{value}`");
        (code, message, help.into())
    })
}

fn namespace(known: &Identities<'_>, value: &str) -> Option<Problem> {
    // A star anywhere is a wildcard here.
    let matched = known.namespaces.contains(value)
        || value.contains('*')
            && known.matches(value, || {
                let parts: Vec<&str> = value.split('*').collect();
                known.namespaces.iter().any(|name| glob(&parts, name))
            });
    if matched {
        return None;
    }
    let help = match known.nearest(value, known.namespaces.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "check the name, or give the manifests of that namespace as well".into(),
    };
    let message = format!("no namespace in the given manifests matches `{value}`");
    Some((Code::UnmatchedNamespace, message, help))
}

/// Whether the parts between stars come one after another, the outer ones at the ends.
fn glob(parts: &[&str], name: &str) -> bool {
    let [first, middle @ .., last] = parts else {
        return parts.first().is_some_and(|only| *only == name);
    };
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

fn service_account(
    world: &World<'_>,
    known: &Identities<'_>,
    policy: &AuthorizationPolicy,
    value: &str,
) -> Option<Problem> {
    let (namespace, account) = match value.split_once('/') {
        Some(halves) => halves,
        None => (policy.namespace.as_str(), value),
    };
    if has(known, namespace, account) {
        return None;
    }
    let help = who_was_meant(world, known, namespace, account, |ns, sa| {
        format!("{ns}/{sa}")
    });
    let message = format!("no workload runs as service account `{namespace}/{account}`");
    Some((Code::UnmatchedServiceAccount, message, help))
}

fn has(known: &Identities<'_>, namespace: &str, account: &str) -> bool {
    let accounts = known.accounts.get(namespace);
    accounts.is_some_and(|accounts| accounts.contains(account))
}

/// The most likely cause: a workload of that name without a service account of its own, or a name
/// that is misspelt.
fn who_was_meant(
    world: &World<'_>,
    known: &Identities<'_>,
    namespace: &str,
    account: &str,
    write: impl Fn(&str, &str) -> String,
) -> String {
    let in_namespace = world.targets_in(namespace);
    let default = in_namespace.filter(|t| !t.template.service_account_given);
    let by_label = |key: &str, target: &super::world::Target<'_>| {
        target
            .template
            .labels
            .get(key)
            .is_some_and(|v| v == account)
    };
    let meant = default
        .filter(|t| {
            t.name == account || by_label("app", t) || by_label("app.kubernetes.io/name", t)
        })
        // A workload is where the fix belongs; its pods come from it.
        .max_by_key(|t| (t.kind != "Pod", t.name == account));
    if let Some(target) = meant {
        let place = world
            .loaded
            .sources
            .file_line(target.at.document, &target.at.path);
        return format!(
            "{} `{}` ({place}) was probably meant: it names no service account, so its pods run \
             as `default`. Write `serviceAccountName: {account}` in its pod template",
            target.kind, target.name
        );
    }
    // The same account in another namespace, then a similar account in the same one.
    let same_account = known.home.get(account).map(|home| (*home, account));
    let accounts = known.accounts.get(namespace).into_iter().flatten().copied();
    let near_account = known.nearest(account, accounts).map(|sa| (namespace, sa));
    match near_account.or(same_account) {
        Some((ns, sa)) => format!("did you mean `{}`?", write(ns, sa)),
        None if !known.accounts.contains_key(namespace) => format!(
            "namespace `{namespace}` has no workloads here; give its manifests as well, or check \
             the name"
        ),
        None => {
            let accounts = known.accounts.get(namespace).into_iter().flatten();
            let accounts: Vec<&str> = accounts.copied().take(5).collect();
            format!(
                "workloads of `{namespace}` run as {}; set `serviceAccountName: {account}` on the \
                 one that is meant",
                accounts.join(", ")
            )
        }
    }
}
