//! A request as arguments of a command: the same for every command that explains one.

use std::{collections::BTreeMap, net::IpAddr};

use clap::ValueEnum;

use crate::request::{
    Authorizer, HeaderValues, Http, IpSource, Request, ServiceAccountSource, SourceRef, Wire,
};

/// The request to be explained.
#[derive(clap::Args, Clone, Debug)]
pub struct RequestArgs {
    /// Who asks: NAMESPACE/POD, NAMESPACE/WORKLOAD, sa:NAMESPACE/NAME, or an address
    #[arg(long, value_name = "SOURCE")]
    pub from: Option<String>,

    /// Who is asked: NAMESPACE/POD or NAMESPACE/WORKLOAD
    #[arg(long, value_name = "DESTINATION")]
    pub to: Option<String>,

    /// Port of the container, not of the Service
    #[arg(long)]
    pub port: Option<u16>,

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
    #[arg(long, value_name = "TIME", value_parser = crate::clock::seconds)]
    pub now: Option<u64>,
}

/// What is on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Protocol {
    Tcp,
    Tls,
    Http,
}

impl RequestArgs {
    /// The request that the arguments describe.
    ///
    /// # Errors
    /// What is missing or wrong, in words.
    pub fn request(&self) -> Result<Request, String> {
        request(self)
    }
}

/// Messages name the fields of a request; here these are arguments.
pub fn in_arguments(why: String) -> String {
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

fn request(args: &RequestArgs) -> Result<Request, String> {
    let (Some(from), Some(to), Some(port)) = (&args.from, &args.to, args.port) else {
        return Err("--from, --to and --port are needed".into());
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

fn http(args: &RequestArgs) -> Result<Option<Http>, String> {
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

fn split<'a>(pair: &'a str, argument: &str) -> Result<(&'a str, &'a str), String> {
    pair.split_once('=')
        .ok_or_else(|| format!("{argument} wants NAME=VALUE, and `{pair}` has no `=`"))
}
