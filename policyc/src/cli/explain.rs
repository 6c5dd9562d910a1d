//! `policyc explain`: why a request is let through or refused; or, with a code alone, the page of a
//! diagnostic.

use std::{
    collections::BTreeMap,
    io::{Write, stdout},
    net::IpAddr,
};

use anyhow::{Context, bail};
use clap::ValueEnum;
use policyc::{
    compile::compile,
    diagnostic::Code,
    explain::explain,
    request::{
        Authorizer, HeaderValues, Http, IpSource, Request, ServiceAccountSource, SourceRef, Wire,
    },
};

use super::{
    Outcome,
    sources::{CatchAll, SourceArgs},
};

/// Explains a verdict, or a diagnostic by its code
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  policyc explain -f manifests/ --from default/frontend --to default/backend --port 80 \\
      --method GET --path /api/v1/data
  policyc explain -f manifests/ --from sa:default/frontend --to default/backend --port 5432
  policyc explain -f manifests/ --mesh mesh.yaml --from 192.0.2.7 --to default/backend --port 80 \\
      --header authorization=\"Bearer $TOKEN\" --ext-authz opa=deny --now 2026-01-01T00:00:00Z
  policyc explain P114")]
pub struct Args {
    /// Code of a diagnostic, such as P114
    #[arg(conflicts_with_all = ["files", "from", "to", "port"], required_unless_present = "files")]
    code: Option<String>,

    /// Manifests: a file, a folder with *.yaml, *.yml and *.json, or `-` for standard input
    #[arg(short = 'f', long = "file", value_name = "PATH", requires_all = ["from", "to", "port"])]
    files: Vec<String>,

    /// MeshConfig, plain or as Istio's ConfigMap
    #[arg(long, value_name = "FILE")]
    mesh: Option<std::path::PathBuf>,

    /// What a DENY rule without from, to and when means
    #[arg(long, value_enum, default_value_t = CatchAll::DenyAll)]
    catch_all_deny: CatchAll,

    /// Key set for a jwksUri; repeatable
    #[arg(long, value_name = "URI=FILE")]
    jwks: Vec<String>,

    /// Who asks: NAMESPACE/POD, NAMESPACE/WORKLOAD, sa:NAMESPACE/NAME, or an address
    #[arg(long, value_name = "SOURCE")]
    from: Option<String>,

    /// Who is asked: NAMESPACE/POD or NAMESPACE/WORKLOAD
    #[arg(long, value_name = "DESTINATION")]
    to: Option<String>,

    /// Port of the container, not of the Service
    #[arg(long)]
    port: Option<u16>,

    /// Address that the source has, where its manifest gives none
    #[arg(long, value_name = "IP")]
    from_ip: Option<IpAddr>,

    /// Makes it an HTTP request; default GET where another HTTP argument is given
    #[arg(long)]
    method: Option<String>,

    /// Request target, query included
    #[arg(long)]
    path: Option<String>,

    #[arg(long)]
    host: Option<String>,

    /// A header; repeatable
    #[arg(long, value_name = "NAME=VALUE")]
    header: Vec<String>,

    /// A claim of a verified token; the value is JSON, or else a string; repeatable
    #[arg(long, value_name = "NAME=VALUE")]
    claim: Vec<String>,

    /// TLS server name
    #[arg(long)]
    sni: Option<String>,

    /// What is on the wire; default http with an HTTP argument, tls with --sni, else tcp
    #[arg(long, value_enum)]
    protocol: Option<Protocol>,

    /// Trust domain of the source's identity, where it is not the mesh's
    #[arg(long, value_name = "DOMAIN")]
    src_trust_domain: Option<String>,

    /// What an authorizer answers; repeatable
    #[arg(long, value_name = "NAME=allow|deny|error", value_parser = authorizer)]
    ext_authz: Vec<(String, Authorizer)>,

    /// The time at which tokens are checked, as RFC 3339; default the clock
    #[arg(long, value_name = "TIME", value_parser = super::time::seconds)]
    now: Option<u64>,

    #[arg(long, value_enum, default_value_t = Format::Human)]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Format {
    Human,
    Json,
}

/// What is on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Protocol {
    Tcp,
    Tls,
    Http,
}

pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    if let Some(code) = &args.code {
        return page(code);
    }
    let request = request(args)?;
    let sources = SourceArgs {
        files: args.files.clone(),
        mesh: args.mesh.clone(),
        catch_all_deny: args.catch_all_deny,
        jwks: args.jwks.clone(),
    };
    let loaded = match sources.load() {
        Ok(loaded) => loaded,
        Err(outcome) => return Ok(outcome),
    };
    let program = compile(&loaded, args.catch_all_deny.into(), &sources.key_sets()?)?;
    let now = args.now.map_or_else(super::time::clock, Ok)?;
    match explain(&program, &loaded.cluster, &request, now) {
        Ok(explanation) => {
            match args.format {
                Format::Human => write!(stdout(), "{explanation}")?,
                Format::Json => {
                    writeln!(stdout(), "{}", serde_json::to_string_pretty(&explanation)?)?;
                }
            }
            Ok(Outcome::Good)
        }
        Err(why) => {
            eprintln!("policyc: {}", in_arguments(why));
            Ok(Outcome::Bad)
        }
    }
}

/// Messages name the fields of a request; here these are arguments.
fn in_arguments(why: String) -> String {
    [
        ("`src_ip`", "`--from-ip`"),
        ("`src.ip`", "`--from`"),
        ("`src_trust_domain`", "`--src-trust-domain`"),
        ("`ext_authz`", "`--ext-authz`"),
        ("`http`", "`--method`"),
    ]
    .into_iter()
    .fold(why, |why, (field, argument)| why.replace(field, argument))
}

fn authorizer(text: &str) -> Result<(String, Authorizer), String> {
    let (name, answer) = text
        .split_once('=')
        .ok_or_else(|| format!("`{text}` has no `=`"))?;
    let answer = match answer {
        "allow" => Authorizer::Allow,
        "deny" => Authorizer::Deny,
        "error" => Authorizer::Error,
        _ => return Err(format!("`{answer}` is none of allow, deny, error")),
    };
    Ok((name.into(), answer))
}

fn page(code: &str) -> anyhow::Result<Outcome> {
    let Some(code) = Code::parse(code) else {
        let known: Vec<&str> = Code::all().map(Code::as_str).collect();
        bail!("there is no code `{code}`; known: {}", known.join(" "));
    };
    write!(stdout(), "{}", code.explanation())?;
    Ok(Outcome::Good)
}

/// The request that the arguments describe.
fn request(args: &Args) -> anyhow::Result<Request> {
    let (Some(from), Some(to), Some(port)) = (&args.from, &args.to, args.port) else {
        bail!("--from, --to and --port are needed");
    };
    let src = if let Some(account) = from.strip_prefix("sa:") {
        SourceRef::ServiceAccount(ServiceAccountSource { sa: account.into() })
    } else if let Ok(ip) = from.parse() {
        SourceRef::Ip(IpSource { ip })
    } else {
        SourceRef::Pod(from.clone())
    };
    let mut http = http(args)?;
    if args.protocol == Some(Protocol::Http) && http.is_none() {
        http = Some(Http {
            method: "GET".into(),
            path: "/".into(),
            ..Http::default()
        });
    }
    Ok(Request {
        id: "explain".into(),
        src,
        src_ip: args.from_ip,
        src_trust_domain: args.src_trust_domain.clone(),
        dst: to.clone(),
        port,
        protocol: match (args.protocol, &http, &args.sni) {
            (Some(Protocol::Http), _, _) | (None, Some(_), _) => Wire::Http,
            (Some(Protocol::Tls), _, _) | (None, None, Some(_)) => Wire::Tls,
            (Some(Protocol::Tcp), _, _) | (None, None, None) => Wire::Tcp,
        },
        http,
        sni: args.sni.clone(),
        ext_authz: (!args.ext_authz.is_empty()).then(|| args.ext_authz.iter().cloned().collect()),
        expect: None,
    })
}

fn http(args: &Args) -> anyhow::Result<Option<Http>> {
    let asked = args.method.is_some()
        || args.path.is_some()
        || args.host.is_some()
        || !args.header.is_empty()
        || !args.claim.is_empty();
    if !asked {
        return Ok(None);
    }
    let mut headers: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for pair in &args.header {
        let (name, value) = split(pair, "--header")?;
        headers.entry(name.into()).or_default().push(value.into());
    }
    let mut claims = serde_json::Map::new();
    for pair in &args.claim {
        let (name, value) = split(pair, "--claim")?;
        let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
        claims.insert(name.into(), value);
    }
    Ok(Some(Http {
        method: args.method.clone().unwrap_or_else(|| "GET".into()),
        path: args.path.clone().unwrap_or_else(|| "/".into()),
        host: args.host.clone(),
        headers: headers
            .into_iter()
            .map(|(name, lines)| (name, HeaderValues::Many(lines)))
            .collect(),
        claims: (!claims.is_empty()).then_some(claims),
    }))
}

fn split<'a>(pair: &'a str, argument: &str) -> anyhow::Result<(&'a str, &'a str)> {
    pair.split_once('=')
        .with_context(|| format!("{argument} wants NAME=VALUE, and `{pair}` has no `=`"))
}
