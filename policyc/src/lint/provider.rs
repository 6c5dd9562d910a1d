//! CUSTOM policies whose authorizer the mesh does not know.

use super::world::{World, name};
use crate::{
    ast::Action,
    cluster::ProviderKind,
    diagnostic::{Code, Diagnostic, Severity},
    read::node::nearest,
};

pub fn lint(world: &World<'_>) -> Vec<Diagnostic> {
    let providers = &world.cluster.mesh.extension_providers;
    let mut found = Vec::new();
    for (_, policy) in world.policies() {
        let Action::Custom { provider } = &policy.action else {
            continue;
        };
        let path = policy.object.key("spec").key("provider").key("name");
        let why = match providers.iter().find(|p| p.name == *provider) {
            Some(known) if known.kind == ProviderKind::Other => "is not an authorizer",
            Some(_) => continue,
            None => "is not among the mesh's `extensionProviders`",
        };
        let names = providers.iter().map(|p| p.name.as_str());
        let help = match nearest(provider, names).filter(|near| near != provider) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "define it in the MeshConfig, and give that file with `--mesh`".into(),
        };
        found.push(world.about(
            policy,
            Code::UnknownProvider,
            Severity::Warning,
            path,
            format!(
                "provider `{provider}` {why}, so every request that `{}` matches is denied",
                name(policy)
            ),
            help,
        ));
    }
    // ISTIO: "Currently at most 1 provider is allowed per workload."
    for target in &world.targets {
        let mut chosen: Vec<(&str, usize)> = Vec::new();
        for number in &target.policies {
            if let Some(policy) = world.cluster.policies.get(*number)
                && let Action::Custom { provider } = &policy.action
                && !chosen.iter().any(|(name, _)| name == provider)
            {
                chosen.push((provider, *number));
            }
        }
        if let [(first, _), (second, number), ..] = chosen.as_slice()
            && let Some(policy) = world.cluster.policies.get(*number)
        {
            found.push(world.about(
                policy,
                Code::UnknownProvider,
                Severity::Warning,
                policy.object.key("spec").key("provider").key("name"),
                format!(
                    "{} has two providers, `{first}` and `{second}`: every request that their \
                     policies match is denied",
                    world.names([target])
                ),
                "let one provider decide for a workload",
            ));
        }
    }
    found.sort_by(|a, b| (&a.at, &a.message).cmp(&(&b.at, &b.message)));
    found.dedup_by(|a, b| a.at == b.at && a.code == b.code);
    found
}
