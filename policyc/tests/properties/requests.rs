//! Requests of the small world, with tokens good and bad.

use std::{collections::BTreeMap, net::IpAddr};

use policyc::request::{
    Authorizer, HeaderValues, Http, IpSource, Request, ServiceAccountSource, SourceRef, Wire,
};
use proptest::{option, prelude::*, sample::select};

/// The key that signed all tokens here.
pub const KEYS: &str = r#"{"keys": [{"kty": "oct", "k": "bm90LWEtc2VjcmV0LWJ1dC1sb25nLWVub3VnaC1mb3Itc2hhNTEyLWhtYWMta2V5cy1pbi10ZXN0cy0wMTIzNDU2Nzg5"}]}"#;

/// Two good ones, another issuer's, a `sub` that is a number, one that stands twice, an `exp` of 0,
/// one long past, and a `kid` that is a number.
const SIGNED: &[&str] = &[
    "eyJhbGciOiAiSFMyNTYiLCAidHlwIjogIkpXVCJ9.eyJpc3MiOiAibWUiLCAic3ViIjogInlvdSIsICJhdWQiOiAib25lIiwgImdyb3VwIjogImFkbWluIn0.wSILhvT5KoJb1z8Yoaq0BBfmYVdNy2LIgZrycPYsFM0",
    "eyJhbGciOiAiSFMyNTYiLCAidHlwIjogIkpXVCJ9.eyJpc3MiOiAibWUiLCAic3ViIjogIiIsICJhdWQiOiBbInR3byIsICJ0aHJlZSJdLCAiYXpwIjogIm1lIiwgImdyb3VwIjogImIgYSJ9.NeypjUsAjZv82miSVT8Ecp5gjmr_aGBAxFH5SVe1xDo",
    "eyJhbGciOiAiSFMyNTYiLCAidHlwIjogIkpXVCJ9.eyJpc3MiOiAib3RoZXIiLCAic3ViIjogIngiLCAiZ3JvdXAiOiBbImEiLCAiYWRtaW4iXSwgImEiOiB7ImIiOiAiYyJ9fQ.m7FIZhobYAHsv6z8kBS51Mmp6lkbRuMKBXT-Ctjm8hk",
    "eyJhbGciOiAiSFMyNTYiLCAidHlwIjogIkpXVCJ9.eyJpc3MiOiAibWUiLCAic3ViIjogNX0.JeB_P_H2LJtYCwgNRJj0yQzzmDyxpnLe0C4xIHV712s",
    "eyJhbGciOiAiSFMyNTYiLCAidHlwIjogIkpXVCJ9.eyJpc3MiOiJtZSIsInN1YiI6ImEiLCJzdWIiOiJ5b3UifQ.BTfHd0IiQNla0cRbLGw_IxSfGITOPNsP61EI-vHM0zU",
    "eyJhbGciOiAiSFMyNTYiLCAidHlwIjogIkpXVCJ9.eyJpc3MiOiAibWUiLCAic3ViIjogInlvdSIsICJleHAiOiAwfQ.X-h-dy-VtOovljW3Y0Y7skBHbNgWqTQYll2_p2D-CKY",
    "eyJhbGciOiAiSFMyNTYiLCAidHlwIjogIkpXVCJ9.eyJpc3MiOiAibWUiLCAic3ViIjogInlvdSIsICJleHAiOiAxfQ.MmonmWPpJUaVJgsNTb4GqwFegf5zlt0kS5T5ZNccU5k",
    "eyJhbGciOiAiSFMyNTYiLCAia2lkIjogNX0.eyJpc3MiOiAibWUiLCAic3ViIjogInlvdSJ9.1d08bw7VyUqragI8co0iQm4vkj6dE4imqpaYr5_idPs",
];

/// Any request of the small world.
pub fn request() -> impl Strategy<Value = Request> {
    let pod = select(vec!["a/x", "a/y", "b/x", "b/z"]);
    let source = prop_oneof![
        6 => pod.clone().prop_map(|p| SourceRef::Pod(p.into())),
        2 => select(vec!["192.0.2.7", "10.0.0.1", "10.0.0.77", "fd00::77", "fe00::1"])
            .prop_map(|ip| SourceRef::Ip(IpSource { ip: ip.parse().expect("an address") })),
        2 => select(vec!["a/sa-x", "b/other"])
            .prop_map(|sa| SourceRef::ServiceAccount(ServiceAccountSource { sa: sa.into() })),
    ];
    (
        source,
        option::weighted(0.2, select(vec!["old", "other"])),
        option::weighted(0.3, select(vec!["10.0.0.9", "fd00::9"])),
        pod,
        select(vec![80u16, 81, 82, 83]),
        select(vec![Wire::Http, Wire::Http, Wire::Tcp, Wire::Tls]),
        http(),
        option::weighted(0.3, select(vec!["example.com", "other.org"])),
        option::weighted(
            0.8,
            select(vec![Authorizer::Allow, Authorizer::Deny, Authorizer::Error]),
        ),
    )
        .prop_map(
            |(src, domain, ip, dst, port, protocol, http, sni, authorizer)| {
                let nobody = matches!(src, SourceRef::Ip(_));
                Request {
                    id: "r".into(),
                    src_ip: if nobody {
                        None
                    } else {
                        ip.map(|ip| ip.parse::<IpAddr>().expect("an address"))
                    },
                    src_trust_domain: if nobody { None } else { domain.map(Into::into) },
                    src,
                    dst: dst.into(),
                    port,
                    protocol,
                    http: (protocol == Wire::Http).then_some(http),
                    sni: sni.map(Into::into),
                    ext_authz: authorizer.map(|a| {
                        ["grpc", "web"]
                            .into_iter()
                            .map(|p| (p.to_string(), a))
                            .collect()
                    }),
                    expect: None,
                }
            },
        )
}

/// An HTTP request to where tokens are looked for.
pub fn to_http() -> impl Strategy<Value = Request> {
    (request(), http()).prop_map(|(request, http)| Request {
        dst: "a/x".into(),
        port: 80,
        protocol: Wire::Http,
        http: Some(http),
        sni: None,
        ..request
    })
}

fn http() -> impl Strategy<Value = Http> {
    let claims = option::weighted(
        0.4,
        select(vec![
            r#"{"iss":"me","sub":"you","aud":"one","group":"admin"}"#,
            r#"{"iss":"me","sub":"","aud":["two","three"],"azp":"me"}"#,
            r#"{"iss":"other","group":["a","admin"],"a":{"b":"c"}}"#,
        ]),
    );
    (
        select(vec!["GET", "POST", "PUT", "get", "OPTIONS"]),
        select(vec![
            "/",
            "/a",
            "/a/b",
            "/b/a?x=/a",
            "/a/../b?x=1",
            "/a|b",
            "/a/..;/b",
            "//a",
            "/a/../b",
            "/%61",
            "/a#b",
            "/a%00",
        ]),
        option::of(select(vec![
            "example.com",
            "WWW.example.com",
            "example.com:80",
        ])),
        option::weighted(0.4, select(vec!["1", "abc", ""])),
        option::weighted(
            0.3,
            select(vec!["10.0.0.1", "192.0.2.1, 10.0.0.9", "junk", "fd00::5"]),
        ),
        option::weighted(0.2, select(vec![vec!["1", "2"], vec!["1", ""], vec!["2"]])),
        any::<bool>(),
        claims,
        (
            option::weighted(0.3, select(SIGNED)),
            option::weighted(0.3, select(SIGNED)),
        ),
    )
        .prop_map(
            |(method, path, host, header, forwarded, accept, preflight, claims, tokens)| {
                let mut headers = BTreeMap::new();
                let line = |v: &str| HeaderValues::One(v.into());
                headers.extend(header.map(|v| ("x-a".to_string(), line(v))));
                headers.extend(forwarded.map(|v| ("x-forwarded-for".to_string(), line(v))));
                if let Some(lines) = accept {
                    let lines = lines.into_iter().map(Into::into).collect();
                    headers.insert("Accept".into(), HeaderValues::Many(lines));
                }
                if let Some(token) = tokens.0 {
                    headers.insert("authorization".into(), line(&format!("Bearer {token}")));
                }
                let path = match tokens.1 {
                    Some(token) if path.contains('?') => format!("{path}&access_token={token}"),
                    Some(token) => format!("{path}?access_token={token}"),
                    None => path.into(),
                };
                if method == "OPTIONS" && preflight {
                    headers.insert("origin".into(), line("https://example.com"));
                    headers.insert("access-control-request-method".into(), line("GET"));
                }
                Http {
                    method: method.into(),
                    path,
                    host: host.map(Into::into),
                    headers,
                    claims: claims.map(|c| serde_json::from_str(c).expect("an object")),
                }
            },
        )
}
