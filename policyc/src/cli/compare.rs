//! `policyc compare`: what two data planes make of the same manifests.

use clap::{ValueEnum, builder::PossibleValue};
use policyc::{
    compare::{self, compare},
    diagnostic::At,
};

use super::{
    Outcome,
    diff::{FailOn, Format, decided, print},
    sources::SourceArgs,
};

/// Tells where two data planes judge the same manifests differently
///
/// Every connection and request on which they disagree, with the rule that makes the difference:
/// Istio's sidecar, Istio's ambient mode (ztunnel, without waypoints), and this project's own meaning,
/// which is the sidecar's but for patterns of namespaces.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  policyc compare -f manifests/
  policyc compare --profile enforcer,sidecar -f manifests/ --fail-on any
  kubectl get authorizationpolicies,pods,services -A -o yaml | policyc compare -f - --format markdown

The output is that of `policyc diff`: old is the first profile, new the second. Exit codes: 0 compared,
1 the manifests have errors or --fail-on was met, 2 usage or I/O.")]
pub struct Args {
    #[command(flatten)]
    sources: SourceArgs,

    /// The two to compare
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        num_args = 1..=2,
        default_values_t = [Profile(compare::Profile::Sidecar), Profile(compare::Profile::Ambient)],
    )]
    profile: Vec<Profile>,

    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,

    /// Exit with 1 when the second lets through what the first does not, when it refuses what the
    /// first does not, or on any difference
    #[arg(long, value_enum)]
    fail_on: Option<FailOn>,
}

/// A profile as an argument.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Profile(compare::Profile);

impl ValueEnum for Profile {
    fn value_variants<'a>() -> &'a [Self] {
        &[
            Self(compare::Profile::Sidecar),
            Self(compare::Profile::Ambient),
            Self(compare::Profile::Enforcer),
        ]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.0.name()))
    }
}

pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let [Profile(one), Profile(other)] = args.profile.as_slice() else {
        anyhow::bail!("--profile wants two, such as sidecar,ambient");
    };
    let loaded = match args.sources.load() {
        Ok(loaded) => loaded,
        Err(outcome) => return Ok(outcome),
    };
    let key_sets = args.sources.key_sets()?;
    let nowhere = |_: &At| (String::new(), 0);
    let compared = compare(
        &loaded.cluster,
        [*one, *other],
        args.sources.catch_all_deny.into(),
        &key_sets,
        &nowhere,
        super::time::clock()?,
    );
    match compared {
        Ok(diff) => {
            print(&diff, args.format)?;
            Ok(decided(&diff, args.fail_on))
        }
        Err(why) => {
            eprintln!("policyc: {why}");
            Ok(Outcome::Bad)
        }
    }
}
