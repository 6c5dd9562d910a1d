//! What rules see of a request, one question at a time: for explaining a verdict, never for giving
//! one.

use super::{Engine, is_preflight};
use crate::{
    ir::{Atom, AuthenticationId},
    l7::{
        jwt::{Authenticator, Failure, Verified},
        matcher::{Facts, HttpFacts, Test},
        normalize::{BadTarget, Target, normalize},
        request::{Connection, HttpRequest},
    },
};

/// A connection with what may be said on it.
#[derive(Clone, Copy)]
pub struct Looked<'a> {
    pub connection: Connection<'a>,
    /// Where the connection is judged request by request.
    pub http: Option<&'a HttpRequest<'a>>,
    pub forwarded_for: u32,
    pub authentications: &'a [AuthenticationId],
}

/// The request before its tokens are looked at, as CUSTOM rules see it, and after.
#[derive(Clone, Copy)]
pub struct Seen<'a> {
    pub before_tokens: View<'a>,
    pub after_tokens: View<'a>,
    /// Why the tokens are refused.
    pub refused: Option<Failure>,
    /// Why the request is answered before any rule is asked.
    pub malformed: Option<BadTarget>,
}

/// Facts that can be asked.
#[derive(Clone, Copy)]
pub struct View<'a>(&'a Facts<'a>);

impl Engine {
    /// Shows `to` what rules see.
    pub fn look<R>(&self, at: Looked<'_>, to: impl FnOnce(Seen<'_>) -> R) -> R {
        let connection = at.connection;
        let Some(request) = at.http else {
            let facts = &Facts {
                connection,
                http: None,
            };
            return to(Seen {
                before_tokens: View(facts),
                after_tokens: View(facts),
                refused: None,
                malformed: None,
            });
        };
        let (target, malformed) = match normalize(request.target, self.normalization) {
            Ok(target) => (target, None),
            Err(why) => (as_it_came(request.target), Some(why)),
        };
        let as_sent = Verified::default();
        let tokens = self.tokens(at.authentications, request, &target);
        let verified = tokens.as_ref().unwrap_or(&as_sent);
        let facts = |verified| Facts {
            connection,
            http: Some(HttpFacts::new(request, at.forwarded_for, &target, verified)),
        };
        to(Seen {
            before_tokens: View(&facts(&as_sent)),
            after_tokens: View(&facts(verified)),
            refused: tokens.as_ref().err().copied(),
            malformed,
        })
    }

    fn tokens(
        &self,
        applying: &[AuthenticationId],
        request: &HttpRequest<'_>,
        target: &Target<'_>,
    ) -> Result<Verified, Failure> {
        let applying = applying
            .iter()
            .filter_map(|id| self.providers.get(id.index()));
        let authenticator = Authenticator::new(applying.map(Vec::as_slice));
        if authenticator.is_empty() {
            Ok(Verified::default())
        } else if is_preflight(request) {
            Ok(authenticator.without_token())
        } else {
            authenticator.verify(request, target.query)
        }
    }
}

fn as_it_came(target: &str) -> Target<'_> {
    let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
    Target {
        path: path.into(),
        query,
    }
}

impl View<'_> {
    /// Whether the atom holds; `None` for one about source or destination, which is not asked here.
    pub fn holds(&self, atom: &Atom) -> Option<bool> {
        Test::new(atom).map(|test| test.holds(self.0))
    }

    /// Whether there is a verified token.
    pub fn has_token(&self) -> bool {
        let http = self.0.http.as_ref();
        http.is_some_and(|http| http.claims.is_some())
    }

    /// What the request has of that which the atom asks about.
    pub fn values(&self, atom: &Atom) -> Vec<String> {
        let facts = self.0;
        let http = facts.http.as_ref();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut found = Vec::new();
        let mut add = |value: &[u8]| {
            found.push(text(value));
            false
        };
        match atom {
            Atom::Method(_) => {
                facts.header(":method", &mut add);
            }
            Atom::Host(_) => {
                facts.header(":authority", &mut add);
            }
            Atom::Header { name, .. } => {
                facts.header(name, &mut add);
            }
            Atom::Claim { path, .. } => {
                facts.claim(path, &mut add);
            }
            Atom::Path(_) => found.extend(http.map(|http| http.path.to_owned())),
            Atom::Sni(_) => found.extend(facts.connection.sni.map(str::to_owned)),
            Atom::SourceIp(_) => found.extend(facts.connection.peer.map(|ip| ip.to_string())),
            Atom::RemoteIp(_) => found.extend(facts.remote().map(|ip| ip.to_string())),
            Atom::RequestPrincipal { .. } => {
                let claim = |name| facts.claim_text(name).unwrap_or("(none)");
                if self.has_token() {
                    found.push(format!("{}/{}", claim("iss"), claim("sub")));
                }
            }
            Atom::Principal(_)
            | Atom::Namespace(_)
            | Atom::ServiceAccount { .. }
            | Atom::TrustDomain(_)
            | Atom::DestinationIp(_)
            | Atom::DestinationPort(_)
            | Atom::Never => {}
        }
        found
    }
}
