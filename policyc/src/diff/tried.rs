//! Requests that may show a difference.

use std::collections::BTreeMap;

use super::{
    Comparison,
    cells::Finding,
    places::Group,
    report::{Kind, Protocol},
    request::{Spoken, spoken},
    setting::{PortKind, Setting},
};
use crate::request::{Authorizer, Request, SourceRef, Wire};

/// Requests that are tried to show one difference.
pub(super) const TRIED_MAX: usize = 8;

/// A connection, to be completed.
pub(super) fn request(src: SourceRef, port: u16) -> Request {
    Request {
        id: String::new(),
        src,
        src_ip: None,
        src_trust_domain: None,
        dst: String::new(),
        port,
        protocol: Wire::Tcp,
        http: None,
        sni: None,
        ext_authz: None,
        expect: None,
    }
}

/// One of the ports; a common one where it is none in particular.
pub(super) fn port_of(ports: &[&PortKind]) -> u16 {
    match ports.iter().find_map(|kind| kind.ports.first()) {
        Some(port) => *port,
        None => UNNAMED,
    }
}

/// Stands for the ports that nobody names; replaced where somebody does.
pub(super) const UNNAMED: u16 = 0;

/// Requests that may show a finding.
pub(super) fn tried<'a>(
    comparison: &mut Comparison<'a>,
    setting: &Setting<'a>,
    group: &Group,
    finding: &Finding,
    bases: &[Request],
) -> Vec<(String, Request)> {
    if finding.said.is_none() {
        return Vec::new();
    }
    let mut tried = Vec::new();
    let judge = &mut comparison.judge;
    let tokens: Vec<_> = setting
        .benches
        .iter()
        .rev()
        .flatten()
        .flat_map(|bench| bench.tokens.clone())
        .collect();
    let mut said: Vec<Spoken> = Vec::new();
    for turn in 0..4 {
        for way in finding.ways.iter().take(4) {
            let known = &mut judge.decisions.known;
            if let Some(one) = spoken(&judge.atoms, known, &tokens, way, turn)
                && !said.contains(&one)
            {
                said.push(one);
            }
        }
    }
    let providers: BTreeMap<String, Authorizer> = comparison
        .programs
        .iter()
        .flat_map(|program| &program.mesh.extension_providers)
        .map(|provider| {
            let answer = match finding.kind {
                Kind::Custom => Authorizer::Deny,
                _ => Authorizer::Allow,
            };
            (provider.name.clone(), answer)
        })
        .collect();
    let custom = setting
        .scopes
        .iter()
        .flatten()
        .flatten()
        .any(|scope| scope.provider != crate::ir::Provider::None);
    for base in bases {
        for one in &said {
            for place in group.places.iter().take(1) {
                let named = |side: usize| {
                    let name = place.names.get(side)?.as_ref();
                    name.map(|(namespace, name)| format!("{namespace}/{name}"))
                };
                let Some(dst) = named(1).or(named(0)) else {
                    continue;
                };
                let mut request = Request {
                    dst: dst.clone(),
                    ext_authz: custom.then(|| providers.clone()),
                    port: match base.port {
                        UNNAMED => unnamed(setting, group),
                        port => port,
                    },
                    ..base.clone()
                };
                speak(&mut request, finding, one);
                tried.push((named(0).unwrap_or(dst), request));
            }
        }
    }
    tried.truncate(TRIED_MAX);
    tried
}

/// A port that nobody names; one that the destination listens on, where there is one.
fn unnamed(setting: &Setting<'_>, group: &Group) -> u16 {
    let named = |port: &u16| setting.ports.iter().any(|kind| kind.ports.contains(port));
    let listens = group.listens.iter().copied();
    listens
        .chain(9_000..=u16::MAX)
        .chain(1..9_000)
        .find(|port| !named(port))
        .unwrap_or(0)
}

fn speak(request: &mut Request, finding: &Finding, one: &Spoken) {
    request.sni.clone_from(&one.sni);
    if finding.malformed {
        request.protocol = Wire::Http;
        request.http = Some(crate::request::Http {
            method: "GET".into(),
            path: "*".into(),
            ..crate::request::Http::default()
        });
    } else if finding.protocol == Protocol::Http {
        request.protocol = Wire::Http;
        request.http = Some(one.http.clone());
    } else if one.sni.is_some() {
        request.protocol = Wire::Tls;
    }
}
