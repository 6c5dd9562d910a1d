//! Pages of the codes about the validity of a RequestAuthentication.

use super::{Code, Page};

pub const PAGES: &[(Code, Page)] = &[
    (
        Code::JwtIssuer,
        Page {
            title: "A JWT rule names neither issuer nor key address",
            example: r#"jwtRules:
- audiences: ["shop"]"#,
            reason: "Tokens are verified with the keys of an issuer. Without a name and without an address there are no keys.",
            fix: "Write `issuer`, and `jwksUri` or `jwks` where the issuer does not publish its configuration.",
        },
    ),
    (
        Code::JwksUri,
        Page {
            title: "The address of the keys cannot be used",
            example: "jwksUri: issuer.example/keys",
            reason: "The address must be a URL with scheme http or https, a host, and a port that is a number if it has one.",
            fix: "Write `https://issuer.example/keys`.",
        },
    ),
    (
        Code::Jwks,
        Page {
            title: "The inline keys are not a JSON Web Key Set",
            example: r#"jwks: "secret""#,
            reason: "`jwks` holds the JSON that an issuer publishes. If it does not parse, every token would be refused.",
            fix: "Paste the JSON with its `keys`, in quotes or as a block.",
        },
    ),
    (
        Code::JwksTwice,
        Page {
            title: "Keys are given inline and by address",
            example: r#"jwks: '{"keys":[]}'
jwksUri: https://issuer.example/keys"#,
            reason: "Two sets of keys for one issuer would have to be merged or ranked. The schema forbids both together.",
            fix: "Keep one of the two.",
        },
    ),
    (
        Code::JwtLocation,
        Page {
            title: "A place for tokens has no name",
            example: r#"fromHeaders:
- prefix: "Bearer ""#,
            reason: "A header, a query parameter or a cookie is found by its name.",
            fix: "Name it, or remove the item. Without any location, `Authorization: Bearer` and the parameter `access_token` are looked at.",
        },
    ),
    (
        Code::OutputClaim,
        Page {
            title: "A claim cannot be copied to this header",
            example: r#"outputClaimToHeaders:
- header: "x sub"
  claim: sub"#,
            reason: "Both the claim and the header must be named, and the header's name may only have letters, digits, `-` and `_`.",
            fix: "Correct the item.",
        },
    ),
    (
        Code::JwtTimeout,
        Page {
            title: "The timeout is not a duration",
            example: "timeout: 5",
            reason: "A duration is a number with a unit, at least one millisecond.",
            fix: r#"Write "5s"."#,
        },
    ),
    (
        Code::JwksPrivate,
        Page {
            title: "The inline keys include a private key",
            example: r#"jwks: '{"keys":[{"kty":"RSA","d":"..."}]}'"#,
            reason: "Verification needs the public half only. Whoever can read this object can now sign tokens.",
            fix: "Publish the public key alone, and replace the key pair.",
        },
    ),
];
