//! A case's manifests, with places for its pods and a key for its tokens.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, ensure};
use policyc::{
    bundle, cluster::Cluster, diagnostic::Severity, inventory::Inventory, options::Options, read,
    request::Request, resolve,
};
use serde_json::json;
use serde_yaml::{Deserializer, Value};
use tests::live::agent::Home;

/// Signs what a case says was verified. It goes into every key set of the case.
const SECRET: &[u8; 32] = b"0123456789abcdef0123456789abcdef";
const SECRET_TEXT: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY";
const KEY_ID: &str = "conformance";

pub struct Manifests {
    policies: String,
    cluster: String,
    mesh: Option<String>,
}

/// A token and where it goes.
pub enum Token {
    /// (header, value)
    Header(String, String),
    /// (parameter, value)
    Param(String, String),
}

impl Manifests {
    pub fn read(folder: &Path) -> Result<Self> {
        let text = |name: &str| fs::read_to_string(folder.join(name));
        Ok(Self {
            policies: text("policies.yaml")?,
            cluster: text("cluster.yaml")?,
            mesh: text("mesh.yaml").ok(),
        })
    }

    /// The cluster with those pods on this node, behind an interface and in a namespace each, and all
    /// others elsewhere.
    pub fn placed(&self, places: &BTreeMap<String, (String, String)>) -> String {
        each(&self.cluster, |document| {
            if document["kind"] != "Pod" {
                return;
            }
            let text = |value: &Value| value.as_str().unwrap_or("default").to_owned();
            let namespace = text(&document["metadata"]["namespace"]);
            let name = format!("{namespace}/{}", text(&document["metadata"]["name"]));
            let place = places.get(&name);
            let node = if place.is_some() { "here" } else { "there" };
            document["spec"]["nodeName"] = node.into();
            if let Some((interface, netns)) = place {
                if document["metadata"]["annotations"].is_null() {
                    document["metadata"]["annotations"] = Value::Mapping(Default::default());
                }
                let annotations = &mut document["metadata"]["annotations"];
                annotations["enforcer/interface"] = interface.as_str().into();
                annotations["enforcer/netns"] = netns.as_str().into();
            }
        })
    }

    /// As `policyc compile` does it, with our key in every key set.
    pub fn compile(&self, cluster: &str, options: &Options) -> Result<Vec<u8>> {
        let policies = each(&self.policies, |document| {
            if document["kind"] != "RequestAuthentication" {
                return;
            }
            let rules = document["spec"]["jwtRules"].as_sequence_mut();
            for rule in rules.into_iter().flatten() {
                let given = rule["jwks"].as_str().map(str::to_owned);
                let fetched = rule["jwksUri"]
                    .as_str()
                    .and_then(|uri| options.jwks.get(uri));
                let Some(text) = given.or(fetched.cloned()) else {
                    continue;
                };
                let Ok(mut set) = serde_json::from_str::<serde_json::Value>(&text) else {
                    continue;
                };
                if let Some(keys) = set["keys"].as_array_mut() {
                    keys.push(
                        json!({"kty": "oct", "kid": KEY_ID, "alg": "HS256", "k": SECRET_TEXT}),
                    );
                }
                if let Some(rule) = rule.as_mapping_mut() {
                    rule.remove("jwksUri");
                    rule.insert("jwks".into(), set.to_string().into());
                }
            }
        });
        let text = format!("{cluster}---\n{policies}");
        let (loaded, found) = read::load_str("case.yaml", &text, self.mesh.as_deref());
        let error = found.iter().find(|d| d.severity == Severity::Error);
        ensure!(error.is_none(), "{error:?}");
        let place = |_: &policyc::diagnostic::At| ("case.yaml".into(), 1);
        let program = resolve::resolve(
            &loaded.cluster,
            options.catch_all_deny,
            &options.jwks,
            &place,
        )?;
        let inventory = Inventory::of(&loaded.cluster);
        bundle::write(&program, &inventory, 0).context("write the bundle")
    }

    /// The mesh as a file for the agent.
    pub fn mesh_file(&self, home: &Home) -> Option<String> {
        let text = self.mesh.as_ref()?;
        let path = home.file("mesh.yaml");
        fs::write(&path, text).expect("a file of its own");
        Some(path.to_string_lossy().into_owned())
    }

    /// What stands for claims that were verified: a token that verifies.
    pub fn token(
        &self,
        request: &Request,
        cluster: &Cluster,
    ) -> Result<Option<Token>, &'static str> {
        let Some(http) = &request.http else {
            return Ok(None);
        };
        let Some(claims) = &http.claims else {
            return Ok(None);
        };
        // A token in the request itself goes first, and the claims say what is in it.
        let has_header = |name: &str| {
            http.headers
                .keys()
                .any(|own| own.eq_ignore_ascii_case(name))
        };
        if has_header("authorization") || http.path.contains("access_token=") {
            return Ok(None);
        }
        let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
        header.kid = Some(KEY_ID.into());
        let key = jsonwebtoken::EncodingKey::from_secret(SECRET);
        let token = jsonwebtoken::encode(&header, claims, &key).expect("claims are JSON");
        let issuer = claims.get("iss").and_then(|iss| iss.as_str());
        let mut rules = cluster
            .request_authentications
            .iter()
            .flat_map(|authentication| &authentication.jwt_rules);
        let Some(rule) = rules.find(|rule| Some(&*rule.issuer) == issuer) else {
            return match cluster.request_authentications.is_empty() {
                // Nobody verifies it: it is a header like any other.
                true => Ok(Some(Token::Header(
                    "authorization".into(),
                    format!("Bearer {token}"),
                ))),
                false => Err("the claims are of an issuer that no policy names"),
            };
        };
        if rule.jwks.is_none() && rule.jwks_uri.is_none() {
            return Err("the issuer's key set is to be discovered");
        }
        if let Some(from) = rule.from_headers.first() {
            let value = format!("{}{token}", from.prefix);
            return Ok(Some(Token::Header(from.name.clone(), value)));
        }
        if let Some(name) = rule.from_params.first() {
            return Ok(Some(Token::Param(name.clone(), token)));
        }
        if let Some(name) = rule.from_cookies.first() {
            return Ok(Some(Token::Header(
                "cookie".into(),
                format!("{name}={token}"),
            )));
        }
        Ok(Some(Token::Header(
            "authorization".into(),
            format!("Bearer {token}"),
        )))
    }
}

/// Changes each document of a file.
fn each(text: &str, mut change: impl FnMut(&mut Value)) -> String {
    let mut all = String::new();
    for document in Deserializer::from_str(text) {
        let mut value: Value = serde::Deserialize::deserialize(document).expect("YAML");
        if value.is_null() {
            continue;
        }
        change(&mut value);
        all.push_str("---\n");
        // Every text in quotes: `off` stays a text.
        all.push_str(&serde_json::to_string(&value).expect("it was YAML before"));
        all.push('\n');
    }
    all
}
